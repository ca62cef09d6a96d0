// Drives a headless Chromium: opens a page, runs a script of ours in it, prints what it
// returns as JSON. Arguments: the path of playwright-core, of Chromium, a directory for the
// browser's own files, host rules, the page's URL. The script comes on stdin.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [playwright, executablePath, userData, hostRules, url] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const context = await chromium.launchPersistentContext(userData, {
  executablePath,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    `--host-resolver-rules=${hostRules}`,
  ],
});
try {
  const page = await context.newPage();
  await page.goto(url);
  const script = readFileSync(0, "utf8");
  console.log(JSON.stringify(await page.evaluate(script)));
} finally {
  await context.close();
}
