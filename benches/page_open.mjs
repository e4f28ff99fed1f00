// What a reader waits for and what an idle server costs, with the release build, real clients and everything on this
// machine: start to ready line, memory at rest, and the page from its address to the heading and to the decoded image.
//
// cold: the server has never seen the site; the record is in a DHT of eight nodes, the files with one libtorrent peer.
// warm: another reader comes, in a browser profile of its own.

import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { authored } from '../tests/e2e/testkit/seeding.mjs'

const ROUNDS = 5

/** @typedef {{ heading: number, image: number }} Opening  milliseconds from the navigation */

const starts = []
const memory = []
/** @type {{ cold: Opening[], warm: Opening[] }} */
const openings = { cold: [], warm: [] }

for (let round = 0; round < ROUNDS; round++) {
  const lab = new Lab()
  try {
    const { dht, link } = await authored(lab)
    const browser = await lab.browser()

    const begun = performance.now()
    const server = await lab.server({ dht })
    starts.push(performance.now() - begun)
    memory.push((await server.memory()).resident)
    openings.cold.push(await open(browser, `${server.page}#${link}`))
    openings.warm.push(await open(browser, `${server.page}#${link}`))
  } finally {
    await lab.close()
  }
}

console.log(`${ROUNDS} rounds: median (least to most)`)
report('start to ready line, ms', starts)
report('memory at rest, MiB', memory)
for (const [name, times] of Object.entries(openings)) {
  report(
    `${name}: heading shown, ms`,
    times.map(({ heading }) => heading),
  )
  report(
    `${name}: image decoded, ms`,
    times.map(({ image }) => image),
  )
}

/**
 * @param {import('../tests/e2e/testkit/chromium.mjs').Browser} browser
 * @param {string} url
 * @returns {Promise<Opening>}
 */
async function open(browser, url) {
  const begun = performance.now()
  const page = await browser.open(url)
  await page.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
  const heading = performance.now() - begun
  await page.waitForFunction(() => [...document.images].some((image) => image.naturalWidth > 0), null, { polling: 20 })
  const image = performance.now() - begun
  await page.context().close()
  return { heading, image }
}

/** @param {string} what @param {number[]} samples */
function report(what, samples) {
  const sorted = samples.toSorted((a, b) => a - b)
  const figure = (/** @type {number | undefined} */ sample) => (sample ?? NaN).toFixed(sample && sample < 100 ? 1 : 0)
  const median = figure(sorted[sorted.length >> 1])
  console.log(`${what.padEnd(28)} ${median.padStart(7)} (${figure(sorted[0])} to ${figure(sorted.at(-1))})`)
}
