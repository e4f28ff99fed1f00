// The IPv6 DHT (BEP 32) with libtorrent, all on ::1: records, peers and content both ways. And a server that is in both DHTs
// joins them for those who are in one.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { Key, pointer, target } from './testkit/record.mjs'
import { writeSite } from './testkit/site.mjs'
import { environment, run } from './testkit/swarmgate.mjs'
import { eventually, within } from './testkit/wait.mjs'

const IPV6 = '::1'
/** There is one IPv6 address on loopback: libtorrent would take all the nodes there for one that floods it. */
const PATIENT = { dht_block_ratelimit: 1000 }
const ALL_IPV6 = { SWARMGATE__DHT__LISTEN: '[::1]:0', SWARMGATE__BITTORRENT__LISTEN: '[::1]:0' }
const BOTH = { SWARMGATE__DHT__LISTEN: '["127.0.0.1:0", "[::1]:0"]' }

/** @typedef {import('./testkit/lab.mjs').Lab} Lab */

trial('records and content pass between us and libtorrent over IPv6 alone', async (lab) => {
  const server = await lab.server({ env: ALL_IPV6 })
  const peers = await libtorrents(lab, server.dht)
  const [peer, other] = peers

  for (const salt of [Buffer.alloc(0), Buffer.from('tides')]) {
    const [ours, theirs] = [new Key(), new Key()]
    const record = ours.record({ v: pointer('a5'.repeat(20)), seq: 3, ...(salt.length && { salt }) })
    assert.ok((await put(server, record)).stored > 0, 'libtorrent nodes took it')
    const expected = { v: record.v.toString('hex'), sig: record.sig.toString('hex'), seq: 3 }
    assert.deepEqual(await peer.getMutable(ours.public, salt), expected)

    assert.ok((await peer.putMutable(theirs, Buffer.from('from libtorrent'), salt)) > 0)
    const found = await get(server, theirs, salt)
    assert.deepEqual([found.v, found.seq], [Buffer.from('15:from libtorrent').toString('hex'), 1])
  }

  // A torrent that only libtorrent has, found in the DHT and fetched over TCP.
  const home = await lab.directory()
  const dir = join(home, 'tides')
  await writeSite(dir)
  const torrent = await other.seed(dir)
  const env = { ...environment(join(home, 'data'), []), SWARMGATE__DHT__LISTEN: '[::1]:0' }
  const magnet = `magnet:?xt=urn:btih:${torrent.info_hash}`
  const fetch = run(['get', magnet, join(home, 'got'), '--bootstrap', server.ready.dht, '--json'], { env })
  const again = setInterval(() => void other.announce(torrent.info_hash), 2000)
  try {
    const { code, stdout, stderr } = await fetch
    assert.equal(code, 0, stdout + stderr)
  } finally {
    clearInterval(again)
  }
  const image = 'img/harbour.png'
  assert.deepEqual(await readFile(join(home, 'got', 'tides', image)), await readFile(join(dir, image)))

  // And one that only we have.
  await writeSite(dir, { heading: 'Tide tables, by Swarmgate' })
  const publisher = await lab.foreground(['publish', dir, '--json'], {
    dataDir: join(home, 'author'),
    env: { ...ALL_IPV6, SWARMGATE__DHT__BOOTSTRAP: JSON.stringify([server.ready.dht]) },
  })
  const { ih, announced } = await publisher.json(60, 'published site', (line) => line.event === 'published')
  assert.ok(announced > 0, 'libtorrent nodes know that we have it')
  const into = await lab.directory()
  const finished = peer.finished(ih)
  await peer.download(ih, into)
  await within(60, 'download by libtorrent', finished)
  assert.deepEqual(await readFile(join(into, 'tides/index.md')), await readFile(join(dir, 'index.md')))
})

trial('a server in both DHTs serves each what the other has', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht, env: BOTH })
  const [peer] = await libtorrents(lab, server.dhtIpv6)
  const nodes = await eventually(30, 'nodes in both tables', async () => {
    const metrics = await server.metrics()
    const of = (/** @type {string} */ family) =>
      Number(new RegExp(`^swarmgate_dht_nodes\\{family="${family}"\\} (\\d+)`, 'm').exec(metrics)?.[1] ?? 0)
    return of('ipv4') > 0 && of('ipv6') > 0 ? { v4: of('ipv4'), v6: of('ipv6') } : null
  })
  assert.ok(nodes.v4 >= 4 && nodes.v6 >= 1, JSON.stringify(nodes))

  const [v4Only, v6Only, ours] = [new Key(), new Key(), new Key()]
  await dht.last.put(v4Only, { v: { ih: Buffer.alloc(20, 1) }, seq: 4 })
  await peer.putMutable(v6Only, Buffer.from('six'))
  assert.equal((await get(server, v4Only)).seq, 4)
  assert.equal((await get(server, v6Only)).v, Buffer.from('3:six').toString('hex'))
  await put(server, ours.record({ v: pointer('b6'.repeat(20)), seq: 9 }))
  assert.equal((await peer.getMutable(ours.public))?.seq, 9)
  const { k } = ours.record({ v: pointer('b6'.repeat(20)), seq: 9 })
  const read = await (await lab.newcomer(dht)).get(target(k))
  assert.equal(read?.seq, 9)
})

/** Two of them, so that each has another one to look in. @param {Lab} lab @param {{ host: string, port: number }} entry */
async function libtorrents(lab, entry) {
  const peers = await Promise.all([0, 1].map(() => lab.libtorrent(undefined, PATIENT, IPV6)))
  const [peer, other] = peers
  assert.ok(peer && other)
  for (const peer of peers) await peer.joinDht([entry])
  return /** @type {const} */ ([peer, other])
}

/** @param {import('./testkit/swarmgate.mjs').Server} server @param {{ k: Buffer, v: Buffer, seq: number, sig: Buffer, salt?: Buffer | undefined }} record */
async function put(server, { k, v, seq, sig, salt }) {
  const hex = { k: k.toString('hex'), v: v.toString('hex'), sig: sig.toString('hex') }
  const body = JSON.stringify({ ...hex, seq, ...(salt && { salt: salt.toString('hex') }) })
  return (await fetch(`http://${server.ready.web}/v1/records/${hex.k}`, { method: 'PUT', body })).json()
}

/** @param {import('./testkit/swarmgate.mjs').Server} server @param {Key} key @param {Buffer} [salt] */
async function get(server, key, salt) {
  const query = salt?.length ? `?salt=${salt.toString('hex')}` : ''
  const answer = await fetch(`http://${server.ready.web}/v1/records/${key.hex}${query}`)
  assert.equal(answer.status, 200, await answer.clone().text())
  return answer.json()
}
