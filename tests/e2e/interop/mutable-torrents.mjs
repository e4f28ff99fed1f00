// Mutable torrents as others make and read them, by their own programs: mutable-webtorrent and bt-fetch. `make interop`
// installs them into target/bench and runs this.
//
// Both work with Node 20, with what `package.json` here puts in the place of some of their dependencies:
// - mutable-webtorrent names a branch on GitHub as its WebTorrent, which names another repository; neither comes from a
//   registry. The last release of that line stands in for the first, and any package for the second, which is for Chrome
//   apps only.
// - bt-fetch takes any WebTorrent from 2.0.34, and so uint8-util from 2.1; since 2.2 that breaks on the strings it is given.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { trial } from '../testkit/lab.mjs'
import { verifies } from '../testkit/record.mjs'
import { writeSite } from '../testkit/site.mjs'
import { environment, run } from '../testkit/swarmgate.mjs'
import { eventually, within } from '../testkit/wait.mjs'

/** Sites that bt-fetch publishes twice, at most: each second version is taken with an even chance or better. */
const MOST_SITES = 20

const theirs = createRequire(new URL('../../../target/bench/mutable-torrents/', import.meta.url))

/** @typedef {import('../testkit/lab.mjs').Lab} Lab */
/** @typedef {import('../testkit/dht.mjs').LocalDht} LocalDht */

/** No port mapping, no local discovery, no trackers, and no DHT but the one given. @param {LocalDht} dht */
function alone(dht) {
  const bootstrap = dht.nodes.map(({ address }) => address)
  return { dht: { bootstrap, verify: verifies }, tracker: false, lsd: false, natUpnp: false, natPmp: false, utp: false }
}

trial('mutable-webtorrent and we read each other', async (lab) => {
  const dht = await lab.dht()
  const MutableWebTorrent = theirs('mutable-webtorrent')
  const { verify: _, ...ours } = alone(dht).dht
  const client = new MutableWebTorrent({ ...alone(dht), dht: ours })
  lab.keep(client, { stop: () => new Promise((resolve) => client.destroy(resolve)) })
  await within(20, 'DHT node of mutable-webtorrent', once(client.dht, 'ready'))
  const server = await lab.server({ dht })
  const home = await lab.directory()
  const dir = join(home, 'tides')

  // Theirs to us: the record with its number, its update, the magnet link, and the content.
  const { publicKey, secretKey } = client.createKeypair()
  for (const [seq, heading] of ['First tide', 'Second tide'].entries()) {
    await writeSite(dir, { heading })
    const torrent = await within(
      20,
      'seeding',
      new Promise((resolve) => client.seed(dir, { announceList: [] }, resolve)),
    )
    const { magnetURI, sequence } = await within(
      30,
      'publication',
      new Promise((resolve, reject) => {
        const done = (/** @type {any} */ error, /** @type {any} */ published) =>
          error ? reject(error) : resolve(published)
        client.publish(publicKey, secretKey, torrent.infoHash, done)
      }),
    )
    assert.equal(magnetURI, `magnet:?xs=urn:btpk:${publicKey}`)
    const record = await eventually(30, `its version ${sequence}`, async () => {
      const found = await (await fetch(`http://${server.ready.web}/v1/records/${publicKey}?mode=network`)).json()
      return found.seq === sequence ? found : null
    })
    assert.equal(record.ih, torrent.infoHash)
    const resolved = await run(['resolve', magnetURI, '--bootstrap', dht.first.address, '--json'])
    assert.deepEqual([resolved.json.ih, resolved.json.seq], [torrent.infoHash, sequence])
    await got(magnetURI, dht, home, `got-${seq}`, heading)
    await new Promise((resolve) => client.remove(torrent.infoHash, resolve))
  }

  // Ours to them.
  const { published, heading } = await publish(lab, dht)
  const resolved = await within(
    30,
    'resolution',
    new Promise((resolve, reject) => {
      const done = (/** @type {any} */ error, /** @type {any} */ found) => (error ? reject(error) : resolve(found))
      client.resolve(published.key, done)
    }),
  )
  assert.deepEqual([resolved.infoHash.toString('hex'), resolved.sequence], [published.ih, 1])
  const into = await lab.directory()
  const torrent = await within(
    60,
    'torrent of the magnet link',
    new Promise((resolve) => client.add(`magnet:?xs=urn:btpk:${published.key}`, { path: into }, resolve)),
  )
  if (!torrent.done) await within(60, 'download', once(torrent, 'done'))
  assert.match(await readFile(join(into, 'tides', 'index.md'), 'utf8'), new RegExp(heading))
})

trial('bt-fetch and we read each other', async (lab) => {
  const dht = await lab.dht()
  const { default: makeFetch, TorrentManager } = await import(pathToFileURL(theirs.resolve('bt-fetch')).href)
  assert.ok(TorrentManager)
  const btFetch = makeFetch({ folder: await lab.directory(), ...alone(dht) })
  lab.keep(btFetch, { stop: () => btFetch.destroy() })
  const home = await lab.directory()
  const server = await lab.server({ dht })

  // Theirs to us, twice: it does not count on, so the second version has the number of the first. Nodes that keep to
  // BEP 44 refuse that; ours takes it when its value is the larger, which is for chance to say.
  const post = async (/** @type {string} */ site, /** @type {string} */ heading) => {
    const form = `--x\r\nContent-Disposition: form-data; name="file"; filename="index.md"\r\n\r\n# ${heading}\r\n--x--\r\n`
    const headers = { 'content-type': 'multipart/form-data; boundary=x' }
    const answer = await btFetch(`bittorrent://${site}/`, { method: 'POST', headers, body: form })
    return { status: answer.status, text: await answer.text() }
  }
  const record = async (/** @type {string} */ key) => {
    const answer = await fetch(`http://${server.ready.web}/v1/records/${key}?mode=network`)
    return answer.ok ? answer.json() : null
  }
  let taken = 0
  for (let site = 0; site < MOST_SITES && taken === 0; site++) {
    const posted = await post(`tides-${site}`, 'First tide')
    assert.equal(posted.status, 200, posted.text)
    const publicKey = /^bittorrent:\/\/([0-9a-f]{64})\/$/.exec(posted.text)?.[1] ?? posted.text
    const first = await eventually(30, 'its record', () => record(publicKey))
    if (site === 0) await got(`magnet:?xs=urn:btpk:${publicKey}`, dht, home, 'got', 'First tide', 'index.md')

    const again = await post(`tides-${site}`, 'Second tide')
    if (again.status !== 200) {
      assert.match(again.text, /302 sequence number less than current/)
      assert.equal((await record(publicKey)).v, first.v, 'what is refused changes nothing')
      continue
    }
    taken++
    const second = await eventually(30, 'its second record', async () => {
      const found = await record(publicKey)
      return found?.conflict ? found : null
    })
    assert.equal(second.seq, first.seq)
    assert.ok(second.v >= first.v, 'of two values with one number the larger stands')
  }
  assert.equal(taken, 1, `of ${MOST_SITES} second versions none was taken by any node`)

  // Ours to them.
  const { published, heading } = await publish(lab, dht)
  const read = await within(90, 'page by bt-fetch', btFetch(`bittorrent://${published.key}/index.md`))
  assert.equal(read.status, 200)
  assert.match(await read.text(), new RegExp(heading))
})

/** A site of ours, seeded as long as the trial lasts. @param {Lab} lab @param {LocalDht} dht */
async function publish(lab, dht) {
  const [home, heading] = [await lab.directory(), 'Tide tables, by Swarmgate']
  const dir = join(home, 'tides')
  await writeSite(dir, { heading })
  const publisher = await lab.foreground(['publish', dir, '--json'], { dht, dataDir: join(home, 'data') })
  return { published: await publisher.json(60, 'published site', (line) => line.event === 'published'), heading }
}

/** @param {string} magnet @param {LocalDht} dht @param {string} home @param {string} name @param {string} heading @param {string} [file] */
async function got(magnet, dht, home, name, heading, file = 'index.md') {
  const into = join(home, name)
  const env = environment(join(home, `${name}-data`), [])
  const { code, json, stderr } = await run(['get', magnet, into, '--bootstrap', dht.first.address, '--json'], { env })
  assert.equal(code, 0, stderr)
  assert.match(await readFile(join(json.path, file), 'utf8'), new RegExp(heading))
}
