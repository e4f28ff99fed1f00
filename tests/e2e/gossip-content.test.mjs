// Records are exchanged inside the content swarm too: who reads an old version, in a page or as a native peer, learns of the
// new one from those it has the old one from, without being in the record's topic swarm.

import assert from 'node:assert/strict'
import { get } from 'node:http'
import { join } from 'node:path'
import { badRecords, record } from './testkit/bad_records.mjs'
import { percent } from './testkit/canary.mjs'
import { trial } from './testkit/lab.mjs'
import { Peer } from './testkit/peer.mjs'
import { Key, pointer } from './testkit/record.mjs'
import { writeSite } from './testkit/site.mjs'
import { eventually, once, within } from './testkit/wait.mjs'

/** @typedef {import('./testkit/swarmgate.mjs').Server} Server */

trial('readers of an old version hear of the next one where they are, over WebRTC and TCP', async (lab) => {
  const server = await lab.server({ env: { SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false' } })
  const seeder = await lab.libtorrent()
  const dir = join(await lab.directory(), 'tides')
  await writeSite(dir)
  const torrent = await seeder.seed(dir)
  const content = Buffer.from(torrent.info_hash, 'hex')
  const key = new Key()
  const version = (/** @type {number} */ seq) =>
    key.record({ v: pointer(seq === 1 ? torrent.info_hash : `${seq}`.padStart(2, '0').repeat(20)), seq })
  await put(server, version(1))

  // The seeder is found as any native peer: it is announced, from its own address.
  const who = `info_hash=${percent(content)}&peer_id=${percent(Buffer.alloc(20, 7))}&port=${seeder.port}`
  const announce = get({ ...server.web, path: `/announce?${who}&left=0&compact=1`, localAddress: seeder.host })
  const [answer] = await within(10, 'answer to the announce', once(announce, 'response'))
  answer.resume()
  assert.equal(answer.statusCode, 200)

  // A page downloads the torrent; it hands the connections of that swarm, and no other, to the topic.
  const page = await (await lab.webTorrentSite()).open(await lab.browser())
  await page.evaluate(
    async ({ base, socket, key, infoHash }) => {
      const { Topic } = await import(`${base}client/gossip.js`)
      const { client } = /** @type {any} */ (window)
      const topic = new Topic(key, {})
      const came = new Set()
      topic.addEventListener('record', (/** @type {any} */ { detail }) => came.add(detail.seq))
      const torrent = client.add(infoHash, { announce: [socket] })
      torrent.on('wire', (/** @type {any} */ wire) => topic.meet(wire))
      Object.assign(window, { came, torrent })
    },
    { base: server.page, socket: server.socket, key: key.hex, infoHash: torrent.info_hash },
  )
  const has = (/** @type {number} */ seq) =>
    eventually(60, `version ${seq} in the page`, () =>
      page.evaluate((seq) => /** @type {any} */ (window).came.has(seq) || null, seq),
    )
  await has(1)

  const peer = await greet(server, content)
  lab.keep(peer, { stop: async () => peer.close() })
  peer.have(version(1))
  const second = peer.brought()
  await put(server, version(2))
  assert.equal((await second).seq, 2)
  await has(2)

  // And from a peer there to everybody else.
  peer.bring(version(3))
  await has(3)
  await eventually(10, 'version 3 at the server', async () => {
    const found = await (await fetch(`http://${server.ready.web}/v1/records/${key.hex}?mode=cache_only`)).json()
    return found.seq === 3 || null
  })

  // Of a record that never pointed here nothing is said, and nothing is taken.
  const other = badRecords()
  await put(server, other.good)
  const stranger = await greet(server, content)
  lab.keep(stranger, { stop: async () => stranger.close() })
  stranger.have({ k: other.good.k })
  stranger.bring(other.key.record({ v: pointer(torrent.info_hash), seq: 9 }))
  const brought = stranger.brought()
  stranger.have({ k: key.public })
  assert.equal((await brought).seq, 3, 'the connection goes on')
  const mentioned = stranger.heard.flatMap(({ r, k }) => (r ? r.map((/** @type {any} */ { k }) => k) : [k]))
  assert.ok(mentioned.length > 0 && mentioned.every((k) => key.public.equals(k)), 'the other record was mentioned')
  const kept = await fetch(`http://${server.ready.web}/v1/records/${other.key.hex}?mode=cache_only`)
  assert.equal((await kept.json()).seq, other.good.seq)
})

/** As a peer of the content, which offers the exchange once it knows the metadata. @param {Server} server @param {Buffer} content */
function greet(server, content) {
  return eventually(30, 'greeting in the content swarm', () => Peer.greet(server.bittorrent, content).catch(() => null))
}

/** @param {Server} server @param {import('./testkit/bad_records.mjs').Put} item */
async function put(server, item) {
  const body = JSON.stringify(record(item))
  const answer = await fetch(`http://${server.ready.web}/v1/records/${record(item).k}`, { method: 'PUT', body })
  assert.equal(answer.status, 200, await answer.text())
}
