// A network that can be cut: a TCP relay which then keeps every socket open, passes nothing on in either direction,
// and lets nobody know, as when a cable is pulled: neither FIN nor RST.
'use strict';

const { once } = require('node:events');
const net = require('node:net');

/// Relays from a port of its own to `port`. In what comes back, texts are replaced by others of their length.
async function relay(port, replaced = []) {
  const alter = (data) => {
    const alter = (text, [from, to]) => text.replaceAll(from, to);
    return Buffer.from(replaced.reduce(alter, data.toString('latin1')), 'latin1');
  };
  const sockets = new Set();
  let cut = false;
  let swallowed = 0; // connections that began while it was cut
  const listener = net.createServer({ allowHalfOpen: true }, (client) => {
    // One that lived while the line was cut stays dead.
    const line = { dead: cut };
    swallowed += cut;
    const upstream = cut ? null : net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    const ends = upstream ? [[client, upstream], [upstream, client]] : [[client, null]];
    for (const [from, to] of ends) {
      from.line = line;
      sockets.add(from);
      from.on('data', (data) => line.dead || to.write(from === upstream ? alter(data) : data));
      from.on('end', () => line.dead || to.end());
      from.on('error', () => {});
      from.on('close', () => {
        sockets.delete(from);
        if (!line.dead) to.destroy();
      });
    }
  });
  await once(listener.listen(0, '127.0.0.1'), 'listening');
  return {
    port: listener.address().port,
    cut() {
      cut = true;
      for (const socket of sockets) socket.line.dead = true;
    },
    /// Passes on what begins from now on. Returns how many connections began in vain.
    mend() {
      cut = false;
      return swallowed;
    },
    close() {
      listener.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

module.exports = { relay };
