// Pages learn their own address from their own server, ask no third party for it, and are that server's peers all the same.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { Key } from './testkit/record.mjs'
import { writeSite } from './testkit/site.mjs'
import { eventually } from './testkit/wait.mjs'

trial('a page asks only its own server for its address, is told it, and reads a site from it', async (lab) => {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const dir = join(await lab.directory(), 'tides')
  await writeSite(dir)
  const { info_hash: infoHash } = await seeder.seed(dir)
  const announced = dht.announced(infoHash)
  await seeder.announce(infoHash)
  await announced
  const key = new Key()
  await dht.last.put(key, { v: { ih: Buffer.from(infoHash, 'hex') }, seq: 1 })

  const server = await lab.server({ dht })
  const browser = await lab.browser()
  const page = await browser.open(server.page)
  await page.evaluate((magnet) => {
    /** @type {any} */
    const global = globalThis
    global.asked = []
    const Connection = global.RTCPeerConnection
    global.RTCPeerConnection = class extends Connection {
      /** @param {any} settings */
      constructor(settings) {
        super(settings)
        global.asked.push(settings.iceServers)
      }
    }
    location.hash = `#${magnet}`
  }, key.magnet)
  await page.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
  await page.getByRole('img', { name: 'The harbour' }).waitFor({ timeout: 60_000 })

  const asked = await page.evaluate(() => /** @type {any} */ (globalThis).asked)
  assert.ok(asked.length > 0)
  for (const servers of asked) assert.deepEqual(servers, [{ urls: `stun:${server.ready.stun}` }])
  await eventually(30, 'answer to a STUN request of Chromium', async () => {
    return /bridge_stun_requests_total\{result="answered"\} [1-9]/.test(await server.metrics()) || null
  })
  assert.match(await server.metrics(), /bridge_bytes_total\{direction="out",transport="webrtc"\} [1-9]/)
})
