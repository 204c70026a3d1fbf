// Node's ws as an echo server that compresses, one process, tuned as its documentation says:
// bufferutil beside it, and a concurrency limit for zlib, whose calls run on libuv's threads.
//
// node echo.cjs PORT [CONCURRENCY_LIMIT [CHUNK_BYTES]]

'use strict';

const { WebSocketServer } = require('ws');

const [port, concurrencyLimit = 10, chunkSize = 4096] = process.argv.slice(2).map(Number);

const server = new WebSocketServer({
  host: '127.0.0.1',
  port,
  perMessageDeflate: {
    serverNoContextTakeover: true,
    clientNoContextTakeover: true,
    threshold: 128,
    concurrencyLimit,
    zlibDeflateOptions: { level: 1, windowBits: 15, chunkSize },
    zlibInflateOptions: { windowBits: 15, chunkSize },
  },
});

server.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  // An error ends this connection alone.
  socket.on('error', () => {});
});
