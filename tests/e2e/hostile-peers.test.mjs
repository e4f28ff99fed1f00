// Peers who lie, flood and stall, while a page gives a torrent to a native client that knows nothing of it.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import bencode from 'bencode'
import { serves } from './testkit/canary.mjs'
import { noise, PIECE, sha256, sha256OfFile, torrentOf } from './testkit/content.mjs'
import { trial } from './testkit/lab.mjs'
import { ID, Peer } from './testkit/hostile.mjs'
import { eventually, within } from './testkit/wait.mjs'
import { download, seedNoise } from './testkit/webtorrent.mjs'

const MIB = 1 << 20
const BLOCK = 1 << 14

/** How many there are of each kind. */
const VISITS = 5

trial('hostile peers are let go, told apart in the metrics, and harm nobody', async (lab) => {
  const dht = await lab.dht()
  const env = { SWARMGATE__BRIDGE__POLICY: 'open', SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false', RUST_LOG: 'error' }
  const server = await lab.server({ dht, env })
  const browser = await lab.browser()
  const site = await lab.webTorrentSite()
  const libtorrent = await lab.libtorrent(dht)
  const file = { name: 'film.bin', size: 8 * MIB, seed: 17 }
  const bytes = noise(file.size, file.seed)
  const { infoHash } = torrentOf(file.name, bytes)
  const pieces = Math.ceil(file.size / PIECE)
  const everything = Buffer.alloc(Math.ceil(pieces / 8), 0xff)
  const before = await server.memory()

  /** @type {Peer[]} */
  const peers = []
  lab.keep(peers, { stop: async () => peers.forEach((peer) => peer.leave()) })
  let addresses = 0
  // Each from an address of its own, since a liar's is shut out.
  const address = () => `127.77.0.${++addresses}`
  /** Greets as a peer of the torrent. @param {string} [hash] */
  const greet = async (hash = infoHash) => {
    const peer = await Peer.greet(server.bittorrent, address(), hash)
    peers.push(peer)
    return peer
  }

  const page = await site.open(browser)
  const announced = dht.announced(infoHash)
  // Slow enough that everybody has their turn.
  await page.evaluate((rate) => /** @type {any} */ (window).client.throttleUpload(rate), file.size / 6)
  await seedNoise(page, { ...file, tracker: server.socket })
  await announced

  /** @type {Record<string, () => Promise<void>>} each resolves when the server let it go */
  const hostile = {
    'sends noise for a handshake': async () => {
      const peer = await Peer.connect(server.bittorrent, address())
      peer.write(randomBytes(2000))
      await peer.closed
    },
    'asks for a torrent that nobody has': async () => {
      const peer = await Peer.greet(server.bittorrent, address(), '00'.repeat(20))
      await peer.closed
    },
    'announces a message of two gigabytes': async () => {
      const peer = await greet()
      peer.write(Peer.numbers(2 ** 31))
      await peer.closed
    },
    'has a bitfield of the wrong length': async () => {
      const peer = await greet()
      peer.say(ID.bitfield, Buffer.alloc(everything.length + 1, 0xff))
      await peer.closed
    },
    'has a piece that does not exist': async () => {
      const peer = await greet()
      peer.say(ID.have, Peer.numbers(2 ** 32 - 1))
      await peer.closed
    },
    'sends blocks that nobody asked for, too long': async () => {
      const peer = await greet()
      peer.say(ID.bitfield, everything)
      peer.say(ID.piece, Buffer.concat([Peer.numbers(0, 0), randomBytes(2 * BLOCK)]))
      await peer.closed
    },
  }
  /** Has everything, and sends something else; resolves when the server let it go. */
  const falsify = async () => {
    const peer = await greet()
    peer.hear = ({ id, payload }) => {
      if (id !== ID.request) return
      peer.say(ID.piece, Buffer.concat([payload.subarray(0, 8), randomBytes(payload.readUInt32BE(8))]))
    }
    peer.say(ID.bitfield, everything)
    peer.say(ID.unchoke)
    await peer.closed
  }
  /** These are not let go, or only late: they must merely harm nobody. @type {Record<string, () => Promise<void>>} */
  const tiresome = {
    'has everything and never sends it': async () => {
      const peer = await greet()
      peer.say(ID.bitfield, everything)
      peer.say(ID.unchoke)
    },
    'asks for everything and reads nothing': async () => {
      const peer = await greet()
      peer.socket.pause()
      peer.say(ID.interested)
      for (let round = 0; round < 20; round++) {
        for (let piece = 0; piece < pieces; piece++) {
          for (let at = 0; at < PIECE; at += BLOCK) peer.say(ID.request, Peer.numbers(piece, at, BLOCK))
        }
      }
    },
    'sends its handshake a byte at a time': async () => {
      const peer = await Peer.connect(server.bittorrent, address())
      peers.push(peer)
      peer.write(peer.handshake(infoHash).subarray(0, 20))
    },
    'floods with keep-alives and unknown messages': async () => {
      const peer = await greet()
      for (let n = 0; n < 20_000; n++) peer.write(Peer.numbers(0))
      for (let n = 0; n < 20_000; n++) peer.say(77, Buffer.alloc(50))
    },
  }

  // First, while there are pieces that nobody was asked for: peers who never send keep theirs from others for a while.
  const falsified = Promise.all(Array.from({ length: VISITS }, falsify))
  await within(60, 'end of those who send something else', falsified)
  for (const act of Object.values(tiresome)) for (let visit = 0; visit < VISITS; visit++) await act()
  const dir = await lab.directory()
  await libtorrent.download(infoHash, dir)
  const finished = libtorrent.finished(infoHash)
  const shown = Object.entries(hostile).flatMap(([what, act]) =>
    Array.from({ length: VISITS }, () => within(60, `end of one who ${what}`, act())),
  )
  await Promise.all(shown)
  await within(120, 'download by libtorrent', finished)
  assert.equal(await sha256OfFile(join(dir, file.name)), sha256(bytes))

  // A torrent that only a page names: the metadata that strangers claim to have.
  const nobodys = '5a'.repeat(20)
  const reader = await site.open(browser)
  await reader.evaluate(
    ({ nobodys, tracker }) => void (/** @type {any} */ (window).client.add(nobodys, { announce: [tracker] })),
    { nobodys, tracker: server.socket },
  )
  await eventually(20, 'torrent that waits for its metadata', async () =>
    /bridge_torrents\{stage="metadata"\} 1/.test(await server.metrics()) ? true : null,
  )
  const huge = await greet(nobodys)
  huge.claimMetadata(2 ** 30)
  const false_ = await greet(nobodys)
  false_.hear = ({ id, payload }) => {
    if (id !== ID.extended || payload[0] === 0) return
    const head = bencode.encode({ msg_type: 1, piece: 0, total_size: 1000 })
    false_.say(ID.extended, Buffer.concat([Buffer.from([3]), head, randomBytes(1000)]))
  }
  false_.claimMetadata(1000)
  await within(30, 'end of those with false metadata', Promise.all([huge.closed, false_.closed]))

  const liar = await Peer.connect(server.bittorrent, '127.77.1.1')
  liar.write(liar.handshake(infoHash))
  liar.say(ID.have, Peer.numbers(2 ** 32 - 1))
  await within(30, 'end of a liar', liar.closed)
  await eventually(30, 'closed door for a liar', async () => {
    const again = await Peer.connect(server.bittorrent, '127.77.1.1')
    await within(10, 'end of one who is shut out', again.closed)
    return again.greeted ? null : true
  })

  const metrics = await server.metrics()
  const exactly = {
    'bridge_greetings_total{result="encryption",transport="tcp"}': VISITS, // noise is what an encrypted greeting looks like
    'bridge_greetings_total{result="unknown_torrent",transport="tcp"}': VISITS,
    'bridge_metadata_total{result="too_large"}': 1,
    'bridge_metadata_total{result="wrong_hash"}': 1,
    'bridge_visits_total{ending="misbehaved",transport="tcp"}': 4 * VISITS + 1,
    bridge_banned_total: 4 * VISITS + 2,
  }
  lab.note(metrics.replace(/^(#.*|swarmgate_(?!bridge).*)\n/gm, ''))
  for (const [name, expected] of Object.entries(exactly)) assert.equal(count(metrics, name), expected, name)
  assert.ok(count(metrics, 'bridge_refused_total{reason="banned"}') >= 1)
  const after = await server.memory()
  assert.ok(after.own - before.own < 120, `memory grew from ${before.own} to ${after.own} MiB`)
  await serves(server, 'the visits of hostile peers')
})

trial('who spoils pieces that others finish is shut out, and the others are kept', async (lab) => {
  const env = { SWARMGATE__BRIDGE__POLICY: 'open', SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false', RUST_LOG: 'error' }
  const server = await lab.server({ dht: await lab.dht(), env })
  const site = await lab.webTorrentSite()
  const bytes = Buffer.from(noise(4 * MIB, 23))
  const { infoHash, file } = torrentOf('site.bin', bytes)
  const metadata = Buffer.from(bencode.encode(bencode.decode(file).info))
  const pieces = bytes.length / PIECE
  const everything = Buffer.alloc(pieces / 8, 0xff)
  /** @type {Peer[]} */
  const peers = []
  lab.keep(peers, { stop: async () => peers.forEach((peer) => peer.leave()) })
  /** @param {string} from */
  const greet = async (from) => {
    const peer = await Peer.greet(server.bittorrent, from, infoHash)
    peers.push(peer)
    return peer
  }

  const page = await site.open(await lab.browser())
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(server.socket)}`
  const downloaded = download(page, link)
  await eventually(20, 'torrent that waits for its metadata', async () =>
    /bridge_torrents\{stage="metadata"\} 1/.test(await server.metrics()) ? true : null,
  )
  // It has one piece, gives garbage for the last block of it, and stalls: the piece is taken from it and asked for anew.
  const spoiler = await greet('127.78.0.1')
  const spoilt = new Promise((resolve) => {
    const last = PIECE - BLOCK
    const one = Buffer.from(everything.map((_, at) => (at === 0 ? 0x04 : 0)))
    spoiler.offer(metadata, one, (piece, begin, length) => {
      if (begin === last) resolve(spoiler.give(piece, begin, randomBytes(length)))
    })
  })
  await within(30, 'garbage', spoilt)
  const honest = await greet('127.78.0.2')
  honest.offer(metadata, everything, (piece, begin, length) => {
    const at = piece * PIECE + begin
    honest.give(piece, begin, bytes.subarray(at, at + length))
  })
  // It never comes back: had it been let go for the damaged piece, nothing would come any more.
  const { sha256: found } = await within(90, 'download', downloaded)
  assert.equal(found, sha256(bytes))
  await eventually(30, 'ban', async () => (count(await server.metrics(), 'bridge_banned_total') > 0 ? true : null))
  const again = await greet('127.78.0.1')
  await within(10, 'end of one who is shut out', again.closed)
  assert.ok(!again.greeted)
  assert.equal(count(await server.metrics(), 'bridge_banned_total'), 1)
})

/** What a metric is at. @param {string} metrics @param {string} name */
function count(metrics, name) {
  const line = metrics.split('\n').find((line) => line.startsWith(`swarmgate_${name} `))
  return Number(line?.split(' ').at(-1))
}
