// What is pinned, read over ordinary HTTP: by any client, and by pages as a web seed.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { withoutPeers } from './testkit/chromium.mjs'
import { noise } from './testkit/content.mjs'
import { trial } from './testkit/lab.mjs'
import { PinApi } from './testkit/pin_api.mjs'
import { Key } from './testkit/record.mjs'
import { authored } from './testkit/seeding.mjs'
import { IMAGE } from './testkit/site.mjs'
import { eventually, within } from './testkit/wait.mjs'

const exec = promisify(execFile)

/** @typedef {import('./testkit/lab.mjs').Lab} Lab */

/** A server that has pinned a site. @param {Lab} lab @param {Record<string, string>} [env] */
async function pinned(lab, env = {}) {
  const site = await authored(lab, {
    async more(dir) {
      await writeFile(join(dir, 'evil.html'), '<script>alert(1)</script>')
      await writeFile(join(dir, 'evil.mjs'), 'alert(1)')
      await writeFile(join(dir, 'evil.svg'), '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
      await writeFile(join(dir, 'large.bin'), noise(3_000_000, 1))
    },
  })
  const dataDir = await lab.directory()
  const server = await lab.server({ dht: site.dht, dataDir, env })
  const api = await PinApi.of(server)
  const { id } = await api.pin({ target: site.key.hex })
  await api.until(id, 60, 'pinned site', (pin) => pin.status === 'pinned')
  const torrent = join(dataDir, 'pinned', site.infoHash, 'torrent')
  return { ...site, server, api, torrent, base: `http://${server.ready.web}/v1` }
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
  const part = await get(at, { range: 'bytes=0-99' }, 'HEAD')
  assert.deepEqual([part.status, part.headers.get('content-length')], [200, `${image.length}`], 'ranges are for GET')

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
    ['evil.mjs', 'application/octet-stream'],
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
    `webseeds/${'ab'.repeat(20)}.torrent`,
  ]
  for (const path of absent) {
    const reply = await get(`${base}/${path}`)
    assert.equal(reply.status, 404, path)
    assert.equal(reply.headers.get('content-type'), 'application/problem+json')
    await reply.text()
  }
  assert.equal((await get(at, {}, 'POST')).status, 405)
})

trial(
  'native clients read it: curl goes on where it stopped, aria2 takes parts at once, both and libtorrent a web seed',
  async (lab) => {
    const { dir, infoHash, torrent, base } = await pinned(lab)
    const into = await lab.directory()
    const large = await readFile(join(dir, 'large.bin'))
    const at = `${base}/torrents/${infoHash}/large.bin`
    await writeFile(join(into, 'curl.bin'), large.subarray(0, 1_234_567))
    await exec('curl', ['-sSf', '-C', '-', '-o', join(into, 'curl.bin'), at])
    assert.ok((await readFile(join(into, 'curl.bin'))).equals(large))
    const aria2 = (/** @type {string[]} */ ...args) =>
      exec('aria2c', ['--no-conf', '--quiet', '--dir', into, ...args], { timeout: 60_000 })
    await aria2('--split=3', '--min-split-size=1M', '--max-connection-per-server=3', '--out=aria2.bin', at)
    assert.ok((await readFile(join(into, 'aria2.bin'))).equals(large))

    const seed = `${base}/webseeds/${infoHash}/`
    const isWhole = async (/** @type {string} */ folder) => {
      for (const file of ['index.md', 'posts/spring.md', 'img/harbour.png', 'large.bin', 'evil.svg']) {
        const [there, here] = await Promise.all([folder, dir].map((from) => readFile(join(from, file))))
        assert.ok(here && there?.equals(here), `${folder}/${file}`)
      }
    }
    const file = join(into, 'site.torrent')
    await exec('curl', ['-sSf', '-o', file, `${seed.slice(0, -1)}.torrent`])
    assert.ok((await readFile(file)).equals(await readFile(torrent)))
    await aria2('--enable-dht=false', '--bt-enable-lpd=false', '--seed-time=0', `--torrent-file=${file}`, seed)
    await isWhole(join(into, 'tides'))

    const peer = await lab.libtorrent(undefined, { enable_dht: false })
    const [finished, elsewhere] = [peer.finished(infoHash), await lab.directory()]
    await peer.downloadFrom(file, seed, elsewhere)
    await within(60, 'download by libtorrent', finished)
    await isWhole(join(elsewhere, 'tides'))
  },
)

trial('a page downloads a torrent from the web seed alone', async (lab) => {
  const { dir, infoHash, torrent, base } = await pinned(lab)
  const site = await lab.webTorrentSite()
  const page = await site.open(await lab.browser())
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
    { torrent: (await readFile(torrent)).toString('base64'), seed: `${base}/webseeds/${infoHash}/` },
  )
  const image = await readFile(join(dir, 'img/harbour.png'))
  assert.equal(sums, createHash('sha256').update(image).digest('hex'))
})

trial(
  'pages that can reach no peer read a pinned site, by its link alone: ours and those with the library',
  async (lab) => {
    const { infoHash, link, seeder, server, api } = await pinned(lab)
    await seeder.stop()
    const browser = await lab.browser(undefined, withoutPeers)
    const page = await browser.open(`${server.page}#${link}`)
    await page.getByRole('heading', { name: 'Tide tables' }).waitFor({ timeout: 60_000 })
    const picture = page.getByRole('img', { name: 'The harbour' })
    await picture.waitFor({ timeout: 60_000 })
    const width = await eventually(30, 'decoded image', () =>
      picture.evaluate((image) => /** @type {HTMLImageElement} */ (image).naturalWidth || null),
    )
    assert.equal(width, IMAGE.width)
    await page.getByRole('link', { name: 'the spring tide' }).click()
    await page.getByRole('heading', { name: 'The spring tide' }).waitFor({ timeout: 60_000 })

    const web = await lab.webTorrentSite()
    const other = await web.open(browser)
    const read = await other.evaluate(
      async ({ base, socket, link }) => {
        const [{ Gateway }, { openSite }] = await Promise.all([
          import(`${base}client.js`),
          import(`${base}client/sites.js`),
        ])
        const { client } = /** @type {any} */ (window)
        const site = await openSite(client, link, { gateway: new Gateway([socket]), trackers: [socket] })
        const picture = await site.file('img/harbour.png').bytes()
        return { text: await site.file('index.md').text(), picture: picture.byteLength }
      },
      { base: server.page, socket: server.socket, link },
    )
    assert.match(read.text, /Tide tables/)
    assert.ok(read.picture > 100_000)
    // The API is open to pages of every origin that have a token.
    const usage = await other.evaluate(
      async ({ base, token }) => {
        const body = JSON.stringify({ target: '5'.repeat(40) })
        const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json', 'idempotency-key': 'a' }
        const made = await fetch(`${base}/v1/pins`, { method: 'POST', headers, body })
        return [made.status, made.headers.get('location') !== null, made.headers.get('etag') !== null]
      },
      { base: api.base, token: api.token ?? '' },
    )
    assert.deepEqual(usage, [201, true, true])
    for (const [name, reader] of Object.entries({ page, other })) {
      const asked = await reader.evaluate(() => performance.getEntriesByType('resource').map((entry) => entry.name))
      assert.ok(asked.includes(`http://${server.ready.web}/v1/webseeds/${infoHash}.torrent`), `${name}: ${asked}`)
      assert.ok(
        asked.some((url) => url.endsWith(`/v1/webseeds/${infoHash}/tides/img/harbour.png`)),
        `${name}: ${asked}`,
      )
    }
    const webrtc = [
      ...(await server.metrics()).matchAll(/^swarmgate_bridge_(?:peers|visits_total)\{.*"webrtc".*\} (\d+)/gm),
    ]
    assert.ok(
      webrtc.every(([, count]) => count === '0'),
      `a page was a peer: ${webrtc}`,
    )
  },
)

trial('the door can be shut', async (lab) => {
  const { infoHash, key, base } = await pinned(lab, { SWARMGATE__PINS__CONTENT_DOOR: 'false' })
  for (const path of [
    `torrents/${infoHash}/index.md`,
    `sites/${key.hex}/index.md`,
    `webseeds/${infoHash}/tides/index.md`,
    `webseeds/${infoHash}.torrent`,
  ]) {
    assert.equal((await fetch(`${base}/${path}`)).status, 404, path)
  }
})
