/* Paho C, asynchronous: MQTTAsync with its send and receive threads, everything by callbacks. */
#include <MQTTAsync.h>

#include "work.h"

static MQTTAsync client;
static int steps;

static void good(void *context, MQTTAsync_successData *response)
{
    (void)response;
    if (context != NULL) {
        puts(context);
        work_count(&steps);
    } else {
        work_count(&work.done);
    }
}

static void good5(void *context, MQTTAsync_successData5 *response)
{
    (void)response;
    good(context, NULL);
}

static void bad(void *context, MQTTAsync_failureData *response)
{
    work_fail("%s failed: %d", context != NULL ? (char *)context : "publish", response != NULL ? response->code : 0);
}

static void bad5(void *context, MQTTAsync_failureData5 *response)
{
    work_fail("%s failed: %d, reason %d", context != NULL ? (char *)context : "publish", response != NULL ? response->code : 0,
              response != NULL ? (int)response->reasonCode : 0);
}

static int arrived(void *context, char *topic, int length, MQTTAsync_message *message)
{
    (void)context;
    work_print_message(topic, length > 0 ? (size_t)length : strlen(topic), message->payload, (size_t)message->payloadlen, message->qos);
    MQTTAsync_freeMessage(&message);
    MQTTAsync_free(topic);
    work_count(&work.received);
    return 1;
}

static void lost(void *context, char *cause)
{
    (void)context;
    work_fail("connection lost: %s", cause != NULL ? cause : "-");
}

static void must(int status, const char *what)
{
    if (status != MQTTASYNC_SUCCESS)
        work_fail("%s: %d", what, status);
}

/* the response option of a call whose success prints this step; NULL: of a publish */
static MQTTAsync_responseOptions then(const char *step)
{
    MQTTAsync_responseOptions r = MQTTAsync_responseOptions_initializer;
    if (work.level == 5) {
        r.onSuccess5 = good5;
        r.onFailure5 = bad5;
    } else {
        r.onSuccess = good;
        r.onFailure = bad;
    }
    r.context = (void *)(uintptr_t)step;
    return r;
}

static void start(void)
{
    char uri[128];
    MQTTAsync_createOptions create = MQTTAsync_createOptions_initializer;
    MQTTAsync_createOptions create5 = MQTTAsync_createOptions_initializer5;
    MQTTAsync_connectOptions options3 = MQTTAsync_connectOptions_initializer;
    MQTTAsync_connectOptions options5 = MQTTAsync_connectOptions_initializer5;
    static char connected[] = "connected";

    snprintf(uri, sizeof uri, "tcp://%s:%s", work.host, work.port);
    must(MQTTAsync_createWithOptions(&client, uri, work.id, MQTTCLIENT_PERSISTENCE_NONE, NULL, work.level == 5 ? &create5 : &create),
         "create");
    must(MQTTAsync_setCallbacks(client, NULL, lost, arrived, NULL), "setCallbacks");
    options3.MQTTVersion = MQTTVERSION_3_1_1;
    options3.cleansession = 1;
    options3.onSuccess = good;
    options3.onFailure = bad;
    options5.cleanstart = 1;
    options5.onSuccess5 = good5;
    options5.onFailure5 = bad5;
    options3.context = options5.context = connected;
    options3.maxInflight = options5.maxInflight = WORK_FILES;
    must(MQTTAsync_connect(client, work.level == 5 ? &options5 : &options3), "connect");
    work_wait(&steps, 1, "CONNACK");
}

int main(int argc, char **argv)
{
    work_begin(argc, argv);
    start();
    MQTTAsync_responseOptions r = then("subscribed");
    must(MQTTAsync_subscribe(client, work_filter(), 2, &r), "subscribe");
    work_wait(&steps, 2, "SUBACK");
    for (int q = 0; q <= work.qos; q++) {
        for (int i = 0; i < work.count; i++) {
            r = then(NULL);
            must(MQTTAsync_send(client, work_topic(q, i), (int)work.files[i].length, work.files[i].data, q, 0, &r), "send");
        }
        work_wait(&work.received, (q + 1) * work.count, "messages");
        work_wait(&work.done, (q + 1) * work.count, "acknowledgements");
    }
    r = then("unsubscribed");
    must(MQTTAsync_unsubscribe(client, work_filter(), &r), "unsubscribe");
    work_wait(&steps, 3, "UNSUBACK");
    MQTTAsync_disconnectOptions end3 = MQTTAsync_disconnectOptions_initializer;
    MQTTAsync_disconnectOptions end5 = MQTTAsync_disconnectOptions_initializer5;
    static char disconnected[] = "disconnected";
    end3.onSuccess = good;
    end5.onSuccess5 = good5;
    end3.context = end5.context = disconnected;
    end3.timeout = end5.timeout = 5000;
    must(MQTTAsync_disconnect(client, work.level == 5 ? &end5 : &end3), "disconnect");
    work_wait(&steps, 4, "the end");
    MQTTAsync_destroy(&client);
    return 0;
}
