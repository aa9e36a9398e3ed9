// Look at pages as pictures, on a desktop and on a phone, and write them as PNG. Needs node, and from npm (not kept here):
//   npm install --prefix /tmp/look puppeteer-core @sparticuz/chromium
//   NODE_PATH=/tmp/look/node_modules node docs/pictures/make_screenshots.mjs OUT PAGE.html...
// Says of each page whether it is wider than its screen, and what it asks other hosts for: both should be nothing.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_PATH ?? '.', 'any.js'));
const chromium = (await import(require.resolve('@sparticuz/chromium'))).default;
const puppeteer = (await import(require.resolve('puppeteer-core'))).default;
const [out, ...pages] = process.argv.slice(2);
const browser = await puppeteer.launch({
  args: [...chromium.args, '--no-sandbox', '--allow-file-access-from-files'],
  executablePath: await chromium.executablePath(),
  headless: 'shell',
});
for (const file of pages) {
  for (const [screen, width] of [['desktop', 1280], ['phone', 390]]) {
    const page = await browser.newPage();
    const asked = [];
    page.on('request', request => { if (/^https?:/.test(request.url())) asked.push(request.url()); });
    await page.setViewport({ width, height: 900, isMobile: width < 600 });
    await page.goto('file://' + path.resolve(file));
    const { wide, high } = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth, high: document.documentElement.scrollHeight,
    }));
    const target = path.join(out, `${path.basename(file, '.html')}-${screen}.png`);
    await page.screenshot({ path: target, clip: { x: 0, y: 0, width, height: Math.min(high, 1200) } });
    console.log(`${target}: ${wide > width ? `${wide - width} px too wide` : 'fits'}, ${asked.length} requests elsewhere`);
    await page.close();
  }
}
await browser.close();
