// What most trials begin with: a site whose author has libtorrent, and whose record is in a DHT of foreign nodes.

import { join } from 'node:path'
import { Key } from './record.mjs'
import { writeSite } from './site.mjs'

/** @typedef {import('./dht.mjs').LocalDht} LocalDht */
/** @typedef {import('./libtorrent.mjs').Libtorrent} Libtorrent */

/**
 * Seeds a folder, or a file; resolves when the DHT knows who has it.
 * @param {Libtorrent} seeder @param {LocalDht} dht @param {string} dir @param {number} [pieceSize]
 */
export async function seedInto(dht, seeder, dir, pieceSize) {
  const torrent = await seeder.seed(dir, pieceSize)
  const announced = dht.announced(torrent.info_hash)
  await seeder.announce(torrent.info_hash)
  await announced
  return torrent
}

/**
 * A site as its author has it: files with libtorrent, its record in the DHT.
 * @param {import('./lab.mjs').Lab} lab
 * @param {{ heading?: string, key?: Key, seq?: number, dht?: LocalDht, seeder?: Libtorrent, more?: (dir: string) => Promise<unknown> }} [options]
 *   `more` adds to its files
 */
export async function authored(lab, { heading, key = new Key(), seq = 1, more, ...given } = {}) {
  const dht = given.dht ?? (await lab.dht())
  const seeder = given.seeder ?? (await lab.libtorrent(dht))
  const dir = join(await lab.directory(), 'tides')
  await writeSite(dir, heading ? { heading } : {})
  await more?.(dir)
  const torrent = await seedInto(dht, seeder, dir)
  const stored = await dht.last.put(key, { v: { ih: Buffer.from(torrent.info_hash, 'hex') }, seq })
  if (stored === 0) throw new Error('no DHT node took the record')
  return { dht, seeder, dir, torrent, infoHash: torrent.info_hash, key, link: key.magnet }
}
