// The work (see ../interop/clients/work.h) with MQTT.js: node work_mqttjs.js URL LEVEL QOS ROOT FOLDER ID
// URL: mqtt://HOST:PORT, mqtts://HOST:PORT or ws://HOST:PORT. NODE_PATH says where the packages are.
'use strict';
const { createHash } = require('node:crypto');
const { readdirSync, readFileSync } = require('node:fs');
const { join } = require('node:path');
const mqtt = require('mqtt');

const [url, level, qos, root, folder, clientId] = process.argv.slice(2);
const files = readdirSync(folder).sort().map((name) => [name, readFileSync(join(folder, name))]);
const limit = setTimeout(() => { console.error('timeout'); process.exit(2); }, 40000);

async function work() {
  const client = await mqtt.connectAsync(url, { clientId, protocolVersion: Number(level), clean: true, reconnectPeriod: 0,
    rejectUnauthorized: false }, false);
  console.log('connected');
  let received = 0, wanted, wake;
  client.on('message', (topic, payload, packet) => {
    const hash = createHash('sha256').update(payload).digest('hex');
    console.log(`${topic.slice(root.length + 1)} qos=${packet.qos} length=${payload.length} sha256=${hash}`);
    if (++received === wanted) wake();
  });
  const granted = await client.subscribeAsync(`${root}/#`, { qos: 2 });
  console.log(`subscribed qos=${granted[0].qos}`);
  for (let q = 0; q <= Number(qos); q++) {
    wanted = (q + 1) * files.length;
    const all = new Promise((resolve) => { wake = resolve; });
    await Promise.all(files.map(([name, payload]) => client.publishAsync(`${root}/${q}/${name}`, payload, { qos: q })));
    await all;
  }
  await client.unsubscribeAsync(`${root}/#`);
  console.log('unsubscribed');
  await client.endAsync();
  console.log('disconnected');
}

work().then(() => clearTimeout(limit), (error) => { console.error(error); process.exit(1); });
