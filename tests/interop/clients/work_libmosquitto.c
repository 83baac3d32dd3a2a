/* libmosquitto with its own thread (mosquitto_loop_start): callbacks in that thread, publishing in main's. */
#include <mosquitto.h>

#include "work.h"

static int connected, subscribed, unsubscribed, disconnected;

static void on_connect(struct mosquitto *m, void *data, int code)
{
    (void)m, (void)data;
    printf("connected code=%d\n", code);
    work_count(&connected);
}

static void on_disconnect(struct mosquitto *m, void *data, int code)
{
    (void)m, (void)data;
    printf("disconnected code=%d\n", code);
    work_count(&disconnected);
}

static void on_subscribe(struct mosquitto *m, void *data, int id, int count, const int *granted)
{
    (void)m, (void)data, (void)id, (void)count;
    printf("subscribed qos=%d\n", granted[0]);
    work_count(&subscribed);
}

static void on_unsubscribe(struct mosquitto *m, void *data, int id)
{
    (void)m, (void)data, (void)id;
    puts("unsubscribed");
    work_count(&unsubscribed);
}

static void on_publish(struct mosquitto *m, void *data, int id)
{
    (void)m, (void)data, (void)id;
    work_count(&work.done);
}

static void on_message(struct mosquitto *m, void *data, const struct mosquitto_message *message)
{
    (void)m, (void)data;
    work_print_message(message->topic, strlen(message->topic), message->payload, (size_t)message->payloadlen, message->qos);
    work_count(&work.received);
}

static void must(int status, const char *what)
{
    if (status != MOSQ_ERR_SUCCESS)
        work_fail("%s: %s", what, mosquitto_strerror(status));
}

int main(int argc, char **argv)
{
    work_begin(argc, argv);
    mosquitto_lib_init();
    struct mosquitto *m = mosquitto_new(work.id, true, NULL);
    if (m == NULL)
        work_fail("mosquitto_new");
    must(mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, work.level == 5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311), "version");
    mosquitto_connect_callback_set(m, on_connect);
    mosquitto_disconnect_callback_set(m, on_disconnect);
    mosquitto_subscribe_callback_set(m, on_subscribe);
    mosquitto_unsubscribe_callback_set(m, on_unsubscribe);
    mosquitto_publish_callback_set(m, on_publish);
    mosquitto_message_callback_set(m, on_message);
    must(mosquitto_loop_start(m), "loop_start");
    must(mosquitto_connect(m, work.host, atoi(work.port), 60), "connect");
    work_wait(&connected, 1, "CONNACK");
    must(mosquitto_subscribe(m, NULL, work_filter(), 2), "subscribe");
    work_wait(&subscribed, 1, "SUBACK");
    for (int q = 0; q <= work.qos; q++) {
        for (int i = 0; i < work.count; i++)
            must(mosquitto_publish(m, NULL, work_topic(q, i), (int)work.files[i].length, work.files[i].data, q, false), "publish");
        work_wait(&work.received, (q + 1) * work.count, "messages");
        work_wait(&work.done, (q + 1) * work.count, "acknowledgements");
    }
    must(mosquitto_unsubscribe(m, NULL, work_filter()), "unsubscribe");
    work_wait(&unsubscribed, 1, "UNSUBACK");
    must(mosquitto_disconnect(m), "disconnect");
    must(mosquitto_loop_stop(m, false), "loop_stop");
    work_wait(&disconnected, 1, "the end");
    mosquitto_destroy(m);
    mosquitto_lib_cleanup();
    return 0;
}
