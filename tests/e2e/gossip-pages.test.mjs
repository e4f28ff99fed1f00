// Three pages of another site, stock WebTorrent and the client library: once they have been introduced they bring each
// other new versions, and the server that introduced them is gone.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { Key, pointer } from './testkit/record.mjs'
import { Socket } from './testkit/socket.mjs'
import { eventually } from './testkit/wait.mjs'

/** @typedef {import('playwright-core').Page} Page */

trial('pages update each other after the server is gone', async (lab) => {
  const server = await lab.server()
  const browser = await lab.browser()
  const site = await lab.webTorrentSite()
  const key = new Key()
  const pages = await Promise.all(['author', 'reader', 'late reader'].map(() => site.open(browser)))
  const [author, reader, late] = /** @type {[Page, Page, Page]} */ (pages)
  for (const page of pages) await join(page, server, key)
  await tell(author, key, 1)
  for (const page of [reader, late]) await has(page, 1)
  for (const page of pages) {
    await eventually(30, 'page that knows both others', async () => ((await peers(page)) === 2 ? true : null))
  }

  await server.stop()
  await assert.rejects(fetch(server.page))

  const times = []
  for (const [seq, by] of /** @type {const} */ ([
    [2, author],
    [3, reader],
  ])) {
    const told = await tell(by, key, seq)
    for (const page of pages) if (page !== by) times.push((await has(page, seq)) - told)
  }
  assert.ok(Math.max(...times) < 5_000, `updates took ${times.join(', ')} ms`)

  // Nobody's word is taken: what the key did not sign is not believed, and those who did not send it go on.
  await tell(author, key, 9, { forged: true })
  await tell(reader, key, 4)
  await has(late, 4)
  for (const page of [reader, late]) assert.equal(await newest(page), 4)
})

trial('a server is a peer like any other: what is put through it comes over the swarm', async (lab) => {
  const server = await lab.server()
  const key = new Key()
  const socket = await Socket.open(server.socket)
  const put = (/** @type {number} */ seq) => {
    const { k, v, sig } = key.record({ v: pointer('a5'.repeat(20)), seq })
    const record = { k: k.toString('hex'), v: v.toString('hex'), sig: sig.toString('hex'), seq }
    return socket.ask({ action: 'dht_put', ...record })
  }
  await put(1)
  const page = await (await lab.webTorrentSite()).open(await lab.browser())
  await join(page, server, key)
  await has(page, 1)
  await put(2)
  await has(page, 2)
  assert.equal(await peers(page), 1)
  await socket.close()
})

/** @param {Page} page @param {import('./testkit/swarmgate.mjs').Server} server @param {Key} key */
function join(page, server, key) {
  return page.evaluate(
    async ({ base, socket, key }) => {
      const [{ joinTopic }, library] = await Promise.all([
        import(`${base}client/gossip.js`),
        import(`${base}client.js`),
      ])
      const { client } = /** @type {any} */ (window)
      const topic = joinTopic(client, key, { trackers: [socket] })
      /** @type {Map<number, number>} when each version came */
      const came = new Map()
      topic.addEventListener('record', (/** @type {any} */ { detail }) => came.set(detail.seq, Date.now()))
      Object.assign(window, { topic, came, library })
    },
    { base: server.page, socket: server.socket, key: key.hex },
  )
}

/**
 * Has a page bring a version into the swarm; resolves with the time. A forged one goes out unchecked.
 * @param {Page} page @param {Key} key @param {number} seq @param {{ forged?: boolean }} [options]
 */
function tell(page, key, seq, { forged = false } = {}) {
  const { k, v, sig } = key.record({ v: pointer('a5'.repeat(20)), seq: forged ? 1 : seq })
  const record = { key: k.toString('hex'), v: v.toString('hex'), sig: sig.toString('hex'), seq }
  return page.evaluate(
    async ({ record, forged }) => {
      const { topic, library } = /** @type {any} */ (window)
      const { fromHex } = library
      const claim = { ...record, salt: new Uint8Array(), v: fromHex(record.v), sig: fromHex(record.sig) }
      topic.tell(forged ? { ...claim, target: topic.target } : await library.verifyRecord(claim))
      return Date.now()
    },
    { record, forged },
  )
}

/** When a version came. @param {Page} page @param {number} seq @returns {Promise<number>} */
function has(page, seq) {
  return eventually(30, `version ${seq}`, () =>
    page.evaluate((seq) => /** @type {any} */ (window).came.get(seq) ?? null, seq),
  )
}

/** @param {Page} page @returns {Promise<number>} */
const peers = (page) => page.evaluate(() => /** @type {any} */ (window).topic.peers)

/** @param {Page} page @returns {Promise<number>} */
const newest = (page) => page.evaluate(() => /** @type {any} */ (window).topic.newest.seq)
