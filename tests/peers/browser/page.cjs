// Headless Chromium on the page of `ringwire serve`.
//
//   node page.cjs RINGWIRE DRIVER CHROMIUM SCREENSHOT_DIR [tls]
//
// Starts and restarts the server itself. Leaves SCREENSHOT_DIR/page-DRIVER.png (and -dark, -narrow).
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const http = require('node:http');
const path = require('node:path');
const readline = require('node:readline');
const { chromium } = require('playwright-core');
const { check, run, within } = require('../checks.cjs');

const [ringwire, driver, executablePath, screenshots, tls] = process.argv.slice(2);
/// Of every page. The server's certificate is its own.
const options = { viewport: { width: 1200, height: 900 }, ignoreHTTPSErrors: Boolean(tls) };
let server;
let browser;
let page;
const complaints = [];

/// Starts the server; resolves to its base URL when it listens.
async function start(port) {
  const more = tls ? ['--tls'] : [];
  server = spawn(ringwire, ['serve', '--driver', driver, '--listen', `127.0.0.1:${port}`, ...more], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  server.stderr.on('data', (data) => { said += data; });
  for await (const line of readline.createInterface({ input: server.stdout })) {
    const listening = line.match(/listening on (https?:\/\/\S+)/);
    if (listening) return listening[1];
  }
  throw new Error(`the server did not start: ${said}`);
}

async function stop(signal) {
  const ended = once(server, 'exit');
  server.kill(signal);
  return (await within(10_000, ended, 'the end of the server'))[0];
}

const shot = (name) => page.screenshot({ path: path.join(screenshots, `page-${driver}${name}.png`) });
const status = (text) => page.waitForSelector(`#status:has-text("${text}")`, { timeout: 15_000 });
const logged = (kind, text) =>
  page.waitForSelector(`#log [data-kind="${kind}"]:has-text("${text}")`, { timeout: 5_000 });

check('the page connects and names the driver', async () => {
  const base = await start(0);
  browser = await chromium.launch({
    executablePath,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  });
  // The certificate is made on the spot.
  page = await browser.newPage(options);
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(base);
  await status('Connected');
  await page.waitForSelector(`#driver:has-text("driver ${driver}")`);
});

check('text comes back', async () => {
  await page.fill('#text', 'Grüße, 世界 👋');
  await page.click('#send-text');
  await logged('sent', 'Grüße, 世界 👋');
  await logged('received', 'Grüße, 世界 👋');
});

check('binary comes back', async () => {
  await page.click('#send-binary');
  await logged('received', 'bytes:');
});

check('round trips are charted', async () => {
  await page.setChecked('#auto', true);
  await page.waitForFunction(() => Number(document.querySelector('#rtt-count').textContent) >= 40);
  assert.match(await page.textContent('#rtt-p50'), /^[\d.]+ (µs|ms)$/);
  const painted = () => page.$eval('#rtt-chart', (canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const colors = new Set();
    let pixels = 0;
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 0) pixels += 1;
      if (data[at + 3] === 255) colors.add((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
    }
    return { pixels, colors: colors.size, picture: canvas.toDataURL() };
  });
  const before = await painted();
  assert.ok(before.pixels > 1_000 && before.colors >= 3, JSON.stringify({ ...before, picture: '' }));
  await page.waitForTimeout(500);
  assert.notEqual((await painted()).picture, before.picture, 'the chart stands still');
  await shot('');
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.waitForTimeout(200);
  await shot('-dark');
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(200);
  await shot('-narrow');
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `a narrow screen scrolls sideways by ${overflow} px`);
});

/// Another page with its chat open.
async function chat(name) {
  const tab = await browser.newPage(options);
  tab.on('pageerror', (error) => complaints.push(String(error)));
  tab.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await tab.goto(new URL('/#chat', page.url()).href);
  await tab.waitForSelector('#chat-state:has-text("Connected by WebSocket")', { timeout: 10_000 });
  await tab.fill('#name', name);
  return {
    tab,
    say: async (text) => {
      await tab.fill('#chat-text', text);
      await tab.press('#chat-text', 'Enter');
    },
    hears: (who, text) => tab.waitForSelector(`#chat-log li:has(b:text-is("${who}")):has(span:text-is("${text}"))`),
  };
}

check('two pages chat, and one that stands still does not hold up the other', async () => {
  const [ann, bob] = [await chat('Ann'), await chat('Bob')];
  await ann.say('Hi Bob');
  await bob.hears('Ann', 'Hi Bob');
  await bob.say('<b>Hi</b> Ann, 世界');
  await ann.hears('Bob', '<b>Hi</b> Ann, 世界');
  const devtools = await bob.tab.context().newCDPSession(bob.tab);
  await devtools.send('Debugger.enable');
  const paused = once(devtools, 'Debugger.paused');
  await devtools.send('Debugger.pause');
  bob.tab.evaluate('0').catch(() => {});
  await within(10_000, paused, 'the pause');
  const took = await ann.tab.evaluate(async () => {
    const { connect } = await import('/ringwire.js');
    const ring = connect();
    await new Promise((resolve) => { ring.addEventListener('state', resolve, { once: true }); });
    const begin = performance.now();
    for (let n = 1; n <= 200; n += 1) await ring.publish('chat/lobby', { name: 'Carl', text: `line ${n}`, at: Date.now() });
    ring.close();
    return performance.now() - begin;
  });
  assert.ok(took < 10_000, `200 messages took ${took} ms`);
  await ann.hears('Carl', 'line 200');
  await devtools.send('Debugger.disable');
  await bob.hears('Carl', 'line 200');
  const lines = await bob.tab.$$eval('#chat-log span', (spans) => spans.map((span) => span.textContent));
  const numbered = lines.filter((line) => /^line \d+$/.test(line));
  assert.deepEqual(numbered, Array.from({ length: 200 }, (_, n) => `line ${n + 1}`));
  // Whoever comes later is told what was said.
  const dora = await chat('Dora');
  await dora.hears('Carl', 'line 1');
  for (const { tab } of [ann, bob, dora]) await tab.close();
});

check('the ticker is drawn', async () => {
  await page.setViewportSize({ width: 1200, height: 900 });
  await page.emulateMedia({ colorScheme: 'light' });
  await page.click('#tab-ticker');
  await page.waitForFunction(() => Number(document.querySelector('#price-rate').textContent) > 5, null, { timeout: 10_000 });
  assert.match(await page.textContent('#price'), /^\d+\.\d\d$/);
  await shot('-ticker');
});

check('four ways tell the same, at a price that differs', async () => {
  await page.click('#tab-ways');
  const numbers = () => page.evaluate(() => Object.fromEntries(
    ['polling', 'long-polling', 'events', 'websocket'].map((way) => {
      const value = (what) => Number(document.querySelector(`#${way}-${what}`).textContent.replace(/[^\d.]/g, ''));
      return [way, { messages: value('messages'), requests: value('requests'), each: value('each'), p50: value('p50') }];
    })));
  await page.waitForFunction(() => Number(document.querySelector('#polling-messages').textContent) >= 16, null, { timeout: 20_000 });
  const ways = await numbers();
  await shot('-ways');
  for (const way of Object.values(ways)) assert.ok(Math.abs(way.messages - ways.websocket.messages) <= 8, JSON.stringify(ways));
  assert.equal(ways.websocket.requests, 1);
  assert.equal(ways.events.requests, 1);
  assert.ok(ways['long-polling'].requests > ways.polling.requests, JSON.stringify(ways));
  assert.ok(ways.websocket.each < ways.events.each && ways.events.each < ways.polling.each, JSON.stringify(ways));
  assert.ok(ways.polling.p50 > 100 && ways.websocket.p50 < 100, JSON.stringify(ways));
  assert.equal(await page.textContent('#ways-error'), '');
  for (const tab of ['chat', 'ticker', 'ways', 'echo']) {
    await page.setViewportSize({ width: 390, height: 844 });
    await page.click(`#tab-${tab}`);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `a narrow screen scrolls sideways by ${overflow} px at ${tab}`);
  }
  await page.setViewportSize({ width: 1200, height: 900 });
  await status('Connected');
});

check('no errors so far', async () => {
  assert.equal(await page.locator('#log [data-kind="error"]').count(), 0);
  assert.deepEqual(complaints, []);
});

check("another origin's page gets 403", async () => {
  const foreign = http.createServer((_, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end('<!doctype html><title>elsewhere</title>');
  });
  await once(foreign.listen(0, '127.0.0.1'), 'listening');
  const tab = await browser.newPage(options);
  await tab.goto(`http://127.0.0.1:${foreign.address().port}/`);
  // A page is not told why; the console is.
  const told = tab.waitForEvent('console', (message) => message.text().includes('WebSocket'));
  const target = new URL('/echo', page.url()).href.replace('http', 'ws');
  const outcome = await tab.evaluate((url) => new Promise((resolve) => {
    const ws = new WebSocket(url);
    ws.onopen = () => resolve('open');
    ws.onclose = (event) => resolve(event.code);
  }), target);
  assert.equal(outcome, 1006);
  assert.match((await told).text(), /Unexpected response code: 403/);
  await tab.close();
  foreign.close();
});

check('a restarted server is found again', async () => {
  const port = Number(new URL(page.url()).port);
  assert.equal(await stop('SIGTERM'), 0);
  await logged('state', 'closed with 1001');
  await status('Waiting');
  await start(port);
  await status('Connected');
  await page.fill('#text', 'again');
  await page.click('#send-text');
  await logged('received', 'again');
  assert.equal(await stop('SIGKILL'), null);
  await logged('state', 'closed with 1006');
  await start(port);
  await status('Connected');
});

run(`Chromium on ${driver}`, {
  timeout: 60_000,
  cleanup: async () => {
    console.log(`Chromium ${browser?.version()}, screenshots in ${path.relative('.', screenshots)}`);
    await browser?.close();
    if (server?.exitCode === null && server.signalCode === null) await stop('SIGTERM');
  },
});
