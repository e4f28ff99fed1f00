/**
 * Web seeds (BEP 19): a server that has all of a torrent, read by HTTP beside the swarm. Where a server's are, it says in
 * `dht_info`; what comes from there is checked piece by piece, like everything.
 *
 * ```ts
 * const seed = await gateway.webSeed(infoHash)
 * const torrent = webtorrent.add(addressOf(infoHash, seed), options)
 * torrent.on('ready', () => seed && addWebSeed(torrent, seed))
 * ```
 * @module
 */

/** What is used of a WebTorrent torrent. */
export interface Seedable {
  addWebSeed(url: string): void
}

/**
 * The web seed of a torrent at a server.
 * @param socket the server's WebSocket address
 * @param path where its web seeds are; `null` when that leads to another host: no server aims a page elsewhere
 */
export function webSeedAt(socket: string, path: string, infoHash: string): string | null {
  const host = new URL(socket.replace(/^ws/i, 'http'))
  const { origin, href } = new URL(path, host)
  return origin === host.origin && /^[^?#]*\/$/.test(href) ? `${href}${infoHash}/` : null
}

/** What to hand to WebTorrent's `add`: the metadata is read at the web seed, unless a peer is faster. */
export function addressOf(infoHash: string, seed: string | null): string {
  return seed === null ? infoHash : `magnet:?xt=urn:btih:${infoHash}&xs=${encodeURIComponent(torrentFile(seed))}`
}

/** Has a torrent that is ready read its web seed too, if that has all of it now. */
export async function addWebSeed(torrent: Seedable, seed: string): Promise<void> {
  try {
    const { ok } = await fetch(torrentFile(seed), { method: 'HEAD' })
    if (ok) torrent.addWebSeed(seed)
  } catch {
    // It cannot be reached, or the torrent was left meanwhile; the swarm is as good as before.
  }
}

function torrentFile(seed: string): string {
  return `${seed.slice(0, -1)}.torrent`
}
