// The frame that the Node scripts share: named checks in order, each with a deadline, a line on
// each failure, one line of summary and an exit status.
'use strict';

const checks = [];

/// Adds a check, an async function that throws if it fails.
function check(name, body) {
  checks.push({ name, body });
}

function within(milliseconds, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/// Runs all checks and ends the process: 0 if every one held.
async function run(who, { timeout = 30_000, cleanup = async () => {} } = {}) {
  let failed = 0;
  for (const { name, body } of checks) {
    try {
      await within(timeout, body(), name);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error.stack || error}`);
    }
  }
  await cleanup();
  console.log(`${who}: ${checks.length - failed} of ${checks.length} checks passed`);
  process.exit(failed === 0 && checks.length > 0 ? 0 : 1);
}

module.exports = { check, run, within };
