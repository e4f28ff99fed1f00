// A bridge made of WebTorrent: joins one swarm on both sides. Arguments: info hash, WebSocket tracker, a native peer or
// nothing, the folder to download into.

import WebTorrent from 'webtorrent'

const [infoHash = '', tracker = '', peer = '', path = ''] = process.argv.slice(2)
const client = new WebTorrent({ dht: false, lsd: false, natUpnp: false, natPmp: false, utp: false, secure: false })
client.on('error', (error) => console.error(error))
const torrent = client.add(`magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(tracker)}`, { path })
if (peer) torrent.on('infoHash', () => torrent.addPeer(peer))
torrent.on('trackerAnnounce', () => console.log('announced'))
process.stdin.resume().on('end', () => process.exit())
