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
  const options = { viewport: { width: 1200, height: 900 }, ignoreHTTPSErrors: Boolean(tls) };
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
  const tab = await browser.newPage({ ignoreHTTPSErrors: Boolean(tls) });
  await tab.goto(`http://127.0.0.1:${foreign.address().port}/`);
  // A page is not told why; the console is.
  const told = tab.waitForEvent('console', (message) => message.text().includes('WebSocket'));
  const target = page.url().replace('http', 'ws') + 'echo';
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
