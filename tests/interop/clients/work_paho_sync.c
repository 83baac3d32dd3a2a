/* Paho C, synchronous: one thread, MQTTClient_receive(). */
#include <MQTTClient.h>

#include "work.h"

static MQTTClient client;

static void must(int status, const char *what)
{
    if (status != MQTTCLIENT_SUCCESS)
        work_fail("%s: %d", what, status);
}

static void must5(MQTTResponse response, const char *what)
{
    if (response.reasonCode >= 0x80)
        work_fail("%s: %d", what, (int)response.reasonCode);
    MQTTResponse_free(response);
}

static void start(void)
{
    char uri[128];
    MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
    MQTTClient_connectOptions options3 = MQTTClient_connectOptions_initializer;
    MQTTClient_connectOptions options5 = MQTTClient_connectOptions_initializer5;

    snprintf(uri, sizeof uri, "tcp://%s:%s", work.host, work.port);
    create.MQTTVersion = work.level == 5 ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
    must(MQTTClient_createWithOptions(&client, uri, work.id, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create), "create");
    if (work.level == 5) {
        options5.cleanstart = 1;
        options5.maxInflightMessages = WORK_FILES;
        must5(MQTTClient_connect5(client, &options5, NULL, NULL), "connect");
    } else {
        options3.MQTTVersion = MQTTVERSION_3_1_1;
        options3.cleansession = 1;
        options3.maxInflightMessages = WORK_FILES;
        must(MQTTClient_connect(client, &options3), "connect");
    }
    puts("connected");
    if (work.level == 5)
        must5(MQTTClient_subscribe5(client, work_filter(), 2, NULL, NULL), "subscribe");
    else
        must(MQTTClient_subscribe(client, work_filter(), 2), "subscribe");
    puts("subscribed");
}

static MQTTClient_deliveryToken publish(int qos, int file)
{
    MQTTClient_message message = MQTTClient_message_initializer;
    MQTTClient_deliveryToken token = 0;

    message.payload = work.files[file].data;
    message.payloadlen = (int)work.files[file].length;
    message.qos = qos;
    if (work.level == 5)
        must5(MQTTClient_publishMessage5(client, work_topic(qos, file), &message, &token), "publish");
    else
        must(MQTTClient_publishMessage(client, work_topic(qos, file), &message, &token), "publish");
    return token;
}

static void receive(void)
{
    char *topic = NULL;
    int length = 0, status;
    MQTTClient_message *message = NULL;

    status = MQTTClient_receive(client, &topic, &length, &message, WORK_SECONDS * 1000);
    if ((status != MQTTCLIENT_SUCCESS && status != MQTTCLIENT_TOPICNAME_TRUNCATED) || message == NULL)
        work_fail("receive: %d", status);
    work_print_message(topic, length > 0 ? (size_t)length : strlen(topic), message->payload, (size_t)message->payloadlen, message->qos);
    MQTTClient_freeMessage(&message);
    MQTTClient_free(topic);
}

int main(int argc, char **argv)
{
    MQTTClient_deliveryToken tokens[WORK_FILES];

    work_begin(argc, argv);
    start();
    for (int q = 0; q <= work.qos; q++) {
        for (int i = 0; i < work.count; i++)
            tokens[i] = publish(q, i);
        for (int i = 0; i < work.count && q > 0; i++)
            must(MQTTClient_waitForCompletion(client, tokens[i], WORK_SECONDS * 1000), "acknowledgement");
        for (int i = 0; i < work.count; i++)
            receive();
    }
    if (work.level == 5)
        must5(MQTTClient_unsubscribe5(client, work_filter(), NULL), "unsubscribe");
    else
        must(MQTTClient_unsubscribe(client, work_filter()), "unsubscribe");
    puts("unsubscribed");
    must(work.level == 5 ? MQTTClient_disconnect5(client, 5000, MQTTREASONCODE_SUCCESS, NULL) : MQTTClient_disconnect(client, 5000),
         "disconnect");
    puts("disconnected");
    MQTTClient_destroy(&client);
    return 0;
}
