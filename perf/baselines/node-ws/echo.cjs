// Node's ws as an echo server that compresses, one process, tuned as its documentation says: bufferutil
// beside it, small chunks of zlib, and a limit for zlib's concurrency. The defaults are the best of
// limits 1, 4, 10, 50 and 200, chunks of 1, 4 and 16 KiB, and 1, 2 and 4 of libuv's threads, which do
// zlib's work, for 200 connections with messages of 1 KiB.
//
// node echo.cjs PORT [CONCURRENCY_LIMIT [CHUNK_BYTES]]

'use strict';

const { WebSocketServer } = require('ws');

const [port, concurrencyLimit = 200, chunkSize = 1024] = process.argv.slice(2).map(Number);

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
