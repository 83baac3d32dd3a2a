// A broker: node broker_aedes.js HOST PORT [WEBSOCKET-PORT]. Says `listening` when it accepts connections; ends by SIGTERM.
'use strict';
const net = require('node:net');
const http = require('node:http');
const aedes = require('aedes')({ concurrency: 1000 });

const [host, port, wsPort] = process.argv.slice(2);
const servers = [[net.createServer(aedes.handle), port]];
if (wsPort) {
  const server = http.createServer();
  const { WebSocketServer, createWebSocketStream } = require('ws');
  const sockets = new WebSocketServer({ server, handleProtocols: (names) => (names.has('mqtt') ? 'mqtt' : false) });
  sockets.on('connection', (socket, request) => aedes.handle(createWebSocketStream(socket), request));
  servers.push([server, wsPort]);
}
let waiting = servers.length;
for (const [server, number] of servers) {
  server.on('error', (error) => { console.error(error.message); process.exit(1); });
  server.listen(Number(number), host, () => { if (--waiting === 0) console.log('listening'); });
}
aedes.on('connectionError', (client, error) => console.error(`connection error: ${error.message}`));
aedes.on('clientError', (client, error) => console.error(`client error: ${error.message}`));
process.on('SIGTERM', () => process.exit(0));
