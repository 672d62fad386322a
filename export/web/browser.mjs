// Open the page in Chromium and give it pictures, one after another; print what it says as JSON, a line each.
//
//     node browser.mjs ADDRESS PICTURE ... [--text WORDS] [--shot FILE] [--film FOLDER] [--model FILE] [--dark] [--offline] [--word N]

import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.cwd(), "node_modules/"))("playwright-core");
const given = process.argv.slice(2);
const option = (name) => {
  const at = given.indexOf(name);
  return at < 0 ? null : given.splice(at, 2)[1];
};
const flag = (name) => {
  const at = given.indexOf(name);
  return at >= 0 && Boolean(given.splice(at, 1));
};
const [text, shot, word, film, model] = ["--text", "--shot", "--word", "--film", "--model"].map(option);
const [dark, offline] = ["--dark", "--offline"].map(flag);
const [address, ...pictures] = given;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const context = await browser.newContext({ viewport: { width: 1100, height: 720 }, colorScheme: dark ? "dark" : "light" });
const page = await context.newPage();
const errors = [];
page.on("pageerror", (error) => errors.push(error.message));
await page.goto(address);
await page.waitForSelector("body[data-ready]", { timeout: 120_000 });
if (offline) {
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.reload(); // now under the service worker, which keeps what it passes on
  await page.waitForSelector("body[data-ready]", { timeout: 120_000 });
  await context.setOffline(true);
  await page.reload();
  await page.waitForSelector("body[data-ready]", { timeout: 120_000 });
}
if (model) {
  await page.setInputFiles("#file", model);
  await page.waitForFunction(() => document.querySelector("#progress").hidden, null, { timeout: 60_000 });
}
for (const picture of pictures.length ? pictures : [null]) {
  if (picture) await page.setInputFiles("#photo", picture);
  if (text) {
    await page.fill("#text", text);
    await page.press("#text", "Enter");
  }
  if (picture || text) await page.waitForFunction(
    () => (document.querySelector("#figures").textContent || document.querySelector("#trouble").textContent) !== "",
    null, { timeout: 60_000 });
  const [said, trouble, figures] = await Promise.all(["#said", "#trouble", "#figures"].map((id) => page.textContent(id)));
  const words = await page.locator("#words button").allTextContents();
  console.log(JSON.stringify({ picture, said, trouble, figures, words, state: await page.textContent("#state") }));
  await page.evaluate(() => { document.querySelector("#figures").textContent = ""; });
}
for (let i = 0; film && i < (await page.locator("#words button").count()); i++) {
  await page.locator("#words button").nth(i).focus();
  await page.screenshot({ path: join(film, `${String(i).padStart(2, "0")}.png`) });
}
if (word) await page.locator("#words button").nth(Number(word)).focus();
if (shot) await page.screenshot({ path: shot });
await browser.close();
for (const error of errors) console.error(error);
process.exit(errors.length ? 1 : 0);
