// The work (see ../interop/clients/work.h) with FuseSource's MQTT client (libmqtt-client-java): a NIO selector under HawtDispatch, futures above.
// java -cp ... Work HOST PORT LEVEL QOS ROOT FOLDER ID
import java.io.File;
import java.nio.file.Files;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.fusesource.mqtt.client.Future;
import org.fusesource.mqtt.client.FutureConnection;
import org.fusesource.mqtt.client.MQTT;
import org.fusesource.mqtt.client.Message;
import org.fusesource.mqtt.client.QoS;
import org.fusesource.mqtt.client.Topic;

public class Work {
    static final int SECONDS = 40;

    static <T> T get(Future<T> future) throws Exception {
        return future.await(SECONDS, TimeUnit.SECONDS);
    }

    static void print(String root, Message m) throws Exception {
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(m.getPayload());
        StringBuilder hex = new StringBuilder();
        for (byte b : hash)
            hex.append(String.format("%02x", b));
        System.out.printf("%s length=%d sha256=%s%n", m.getTopic().substring(root.length() + 1), m.getPayload().length, hex);
        m.ack();
    }

    public static void main(String[] args) throws Exception {
        String root = args[4];
        int qos = Integer.parseInt(args[3]);
        File[] files = new File(args[5]).listFiles();
        Arrays.sort(files);
        if (!args[2].equals("4"))
            throw new IllegalArgumentException("MQTT 3.1.1 only");
        MQTT mqtt = new MQTT();
        mqtt.setHost("tcp://" + args[0] + ":" + args[1]);
        mqtt.setClientId(args[6]);
        mqtt.setVersion("3.1.1");
        mqtt.setCleanSession(true);
        mqtt.setConnectAttemptsMax(0);
        mqtt.setReconnectAttemptsMax(0);
        FutureConnection connection = mqtt.futureConnection();
        get(connection.connect());
        System.out.println("connected");
        byte[] granted = get(connection.subscribe(new Topic[] {new Topic(root + "/#", QoS.EXACTLY_ONCE)}));
        System.out.println("subscribed qos=" + granted[0]);
        for (int q = 0; q <= qos; q++) {
            List<Future<Void>> sent = new ArrayList<>();
            for (File file : files)
                sent.add(connection.publish(root + "/" + q + "/" + file.getName(), Files.readAllBytes(file.toPath()), QoS.values()[q], false));
            for (int i = 0; i < files.length; i++)
                print(root, get(connection.receive()));
            for (Future<Void> future : sent)
                get(future);
        }
        get(connection.unsubscribe(new String[] {root + "/#"}));
        System.out.println("unsubscribed");
        get(connection.disconnect());
        System.out.println("disconnected");
        System.exit(0);
    }
}
