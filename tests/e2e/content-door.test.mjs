// What is pinned, read over ordinary HTTP: by any client, and by pages as a web seed.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { PinApi } from './testkit/pin_api.mjs'
import { Key } from './testkit/record.mjs'
import { writeSite } from './testkit/site.mjs'

/** @typedef {import('./testkit/lab.mjs').Lab} Lab */

/** A server that has pinned a site. @param {Lab} lab @param {Record<string, string>} [env] */
async function pinned(lab, env = {}) {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const dir = join(await lab.directory(), 'tides')
  await writeSite(dir)
  await writeFile(join(dir, 'evil.html'), '<script>alert(1)</script>')
  await writeFile(join(dir, 'evil.svg'), '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
  const { info_hash: infoHash } = await seeder.seed(dir)
  const announced = dht.announced(infoHash)
  await seeder.announce(infoHash)
  await announced
  const key = new Key()
  await dht.last.put(key, { v: { ih: Buffer.from(infoHash, 'hex') }, seq: 1 })
  const dataDir = await lab.directory()
  const server = await lab.server({ dht, dataDir, env })
  const api = await PinApi.of(server)
  const { id } = await api.pin({ target: key.hex })
  await api.until(id, 60, 'pinned site', (pin) => pin.status === 'pinned')
  const torrent = await readFile(join(dataDir, 'pinned', infoHash, 'torrent'))
  return { server, dir, infoHash, key, torrent, base: `http://${server.ready.web}/v1` }
}

trial('any HTTP client reads what is pinned, and nothing else', async (lab) => {
  const { dir, infoHash, key, base } = await pinned(lab)
  const image = await readFile(join(dir, 'img/harbour.png'))
  const at = `${base}/torrents/${infoHash}/img/harbour.png`
  const get = (/** @type {string} */ url, /** @type {Record<string, string>} */ headers = {}, method = 'GET') =>
    fetch(url, { headers, method, redirect: 'manual' })
  const bytes = async (/** @type {Response} */ reply) => Buffer.from(await reply.arrayBuffer())

  const whole = await get(at)
  assert.equal(whole.status, 200)
  assert.ok((await bytes(whole)).equals(image))
  const etag = whole.headers.get('etag') ?? ''
  const shown = ['content-type', 'accept-ranges', 'x-content-type-options', 'access-control-allow-origin']
  assert.deepEqual(
    shown.map((name) => whole.headers.get(name)),
    ['image/png', 'bytes', 'nosniff', '*'],
  )
  assert.match(whole.headers.get('content-security-policy') ?? '', /^sandbox/)
  assert.match(whole.headers.get('cache-control') ?? '', /immutable/)

  /** @type {[Record<string, string>, number, string | null, [number, number] | null][]} */
  const ranges = [
    [{ range: 'bytes=0-99' }, 206, `bytes 0-99/${image.length}`, [0, 100]],
    [
      { range: 'bytes=-10' },
      206,
      `bytes ${image.length - 10}-${image.length - 1}/${image.length}`,
      [-10, image.length],
    ],
    [{ range: 'bytes=70000-70000' }, 206, `bytes 70000-70000/${image.length}`, [70_000, 70_001]],
    [{ range: 'bytes=0-99', 'if-range': etag }, 206, `bytes 0-99/${image.length}`, [0, 100]],
    [{ range: 'bytes=0-99', 'if-range': '"other"' }, 200, null, [0, image.length]],
    [{ range: `bytes=${image.length}-` }, 416, `bytes */${image.length}`, null],
    [{ 'if-none-match': etag }, 304, null, null],
  ]
  for (const [headers, status, range, part] of ranges) {
    const reply = await get(at, headers)
    assert.deepEqual([reply.status, reply.headers.get('content-range')], [status, range], JSON.stringify(headers))
    const body = await bytes(reply)
    if (part) assert.ok(body.equals(image.subarray(...part)), JSON.stringify(headers))
  }
  const head = await get(at, {}, 'HEAD')
  assert.deepEqual([head.status, head.headers.get('content-length')], [200, `${image.length}`])

  const page = await get(`${base}/sites/${key.hex}/index.md`)
  assert.equal(page.headers.get('cache-control'), 'no-cache')
  assert.match(await page.text(), /Tide tables/)
  assert.match(await (await get(`${base}/sites/${key.hex}/`)).text(), /Tide tables/, 'the index of a folder')
  const list = /** @type {any} */ (await (await get(`${base}/torrents/${infoHash}/posts`)).json())
  assert.deepEqual(
    list.files.map((/** @type {any} */ file) => [file.path, file.complete]),
    [['posts/spring.md', true]],
  )
  for (const [name, type] of [
    ['evil.html', 'text/html; charset=utf-8'],
    ['evil.svg', 'image/svg+xml'],
  ]) {
    const reply = await get(`${base}/torrents/${infoHash}/${name}`)
    assert.deepEqual([reply.status, reply.headers.get('content-type')], [200, type])
    assert.match(reply.headers.get('content-disposition') ?? '', /^attachment; filename="evil/, name)
    assert.match(reply.headers.get('content-security-policy') ?? '', /^sandbox/)
  }
  const absent = [
    `torrents/${infoHash}/nothing.md`,
    `torrents/${infoHash}/..%2f..%2ftorrent`,
    `torrents/${infoHash}/img`.replace('img', 'im'),
    `torrents/${'ab'.repeat(20)}/index.md`,
    `torrents/xyz/index.md`,
    `sites/${new Key().hex}/index.md`,
    `webseeds/${infoHash}/other/index.md`,
  ]
  for (const path of absent) {
    const reply = await get(`${base}/${path}`)
    assert.equal(reply.status, 404, path)
    assert.equal(reply.headers.get('content-type'), 'application/problem+json')
    await reply.text()
  }
  assert.equal((await get(at, {}, 'POST')).status, 405)
})

trial('a page downloads a torrent from the web seed alone', async (lab) => {
  const { dir, infoHash, torrent, base } = await pinned(lab)
  const site = await lab.webTorrentSite()
  const page = await site.open(await lab.browser())
  const image = await readFile(join(dir, 'img/harbour.png'))
  const sums = await page.evaluate(
    async ({ torrent, seed }) => {
      const { client } = /** @type {any} */ (window)
      const failed = new Promise((_, reject) => client.on('error', reject))
      const bytes = Uint8Array.from(atob(torrent), (c) => c.charCodeAt(0))
      const added = client.add(bytes, { announce: [], urlList: [seed] })
      await Promise.race([new Promise((resolve) => added.once('done', resolve)), failed])
      const file = added.files.find((/** @type {any} */ file) => file.path.endsWith('harbour.png'))
      const digest = await crypto.subtle.digest('SHA-256', await (await file.blob()).arrayBuffer())
      return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
    },
    { torrent: torrent.toString('base64'), seed: `${base}/webseeds/${infoHash}/` },
  )
  assert.equal(sums, createHash('sha256').update(image).digest('hex'))
})

trial('the door can be shut', async (lab) => {
  const { infoHash, key, base } = await pinned(lab, { SWARMGATE__PINS__CONTENT_DOOR: 'false' })
  for (const path of [
    `torrents/${infoHash}/index.md`,
    `sites/${key.hex}/index.md`,
    `webseeds/${infoHash}/tides/index.md`,
  ]) {
    assert.equal((await fetch(`${base}/${path}`)).status, 404, path)
  }
})
