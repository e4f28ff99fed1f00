// Pages of another site publish, open and follow a site by the client library alone, with their own WebTorrent; two
// devices that publish at once get one winner and one clear conflict.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { within } from './testkit/wait.mjs'

/** @typedef {import('playwright-core').Page} Page */

trial('pages publish and read sites by the library, and a conflict is told', async (lab) => {
  const server = await lab.server({ dht: await lab.dht() })
  const browser = await lab.browser()
  const web = await lab.webTorrentSite()
  const [author, reader, device] = await Promise.all([1, 2, 3].map(() => web.open(browser)))
  assert.ok(author && reader && device)
  for (const page of [author, reader, device]) await load(page, server)

  const first = await publish(author, { 'index.md': '# One', 'img/dot.png': 'not quite a picture' }, 0)
  assert.equal(first.seq, 1)
  const opened = await within(
    60,
    'site',
    reader.evaluate(async (magnet) => {
      const { gateway, client, sites } = /** @type {any} */ (window)
      const site = await sites.openSite(client, magnet, { gateway })
      const update = new Promise((resolve) =>
        site.addEventListener('update', (/** @type {any} */ { detail }) => resolve(detail)),
      )
      Object.assign(window, { site, update })
      const url = await site.url('img/dot.png')
      return { seq: site.record.seq, text: await site.file('index.md').text(), url: await (await fetch(url)).text() }
    }, first.magnet),
  )
  assert.deepEqual(opened, { seq: 1, text: '# One', url: 'not quite a picture' })

  const second = await publish(author, { 'index.md': '# Two' }, 1)
  assert.equal(second.seq, 2)
  const text = await within(
    90,
    'second version',
    reader.evaluate(async () => {
      const { site, update } = /** @type {any} */ (window)
      await (await update).accept()
      return site.file('index.md').text()
    }),
  )
  assert.equal(text, '# Two')

  // The other device had not heard of the second version.
  const lost = await publish(device, { 'index.md': '# Two, otherwise' }, 1)
  assert.deepEqual(lost, { error: 'ConflictError', code: 301, current: 2, torrents: 0 })
})

/** @param {Page} page @param {import('./testkit/swarmgate.mjs').Server} server */
function load(page, server) {
  return page.evaluate(
    async ({ base, socket }) => {
      const [library, sites] = await Promise.all([import(`${base}client.js`), import(`${base}client/sites.js`)])
      const key = await library.importSeed(new Uint8Array(32).fill(7))
      Object.assign(window, { sites, key, socket, gateway: new library.Gateway([socket]) })
    },
    { base: server.page, socket: server.socket },
  )
}

/** @param {Page} page @param {Record<string, string>} files @param {number} baseSeq */
function publish(page, files, baseSeq) {
  return page.evaluate(
    async ({ files, baseSeq }) => {
      const { sites, client, key, gateway, socket } = /** @type {any} */ (window)
      try {
        const options = { key, gateway, baseSeq, trackers: [socket], name: 'tides' }
        const { record, magnet } = await sites.publishSite(client, files, options)
        return { seq: record.seq, magnet }
      } catch (error) {
        const { name, code, current } = /** @type {any} */ (error)
        return { error: name, code, current: current?.seq, torrents: client.torrents.length }
      }
    },
    { files, baseSeq },
  )
}
