// Two servers that share one thing only: what is put through one reaches who subscribes at the other.

import { randomBytes } from 'node:crypto'
import { percent } from './canary.mjs'
import { Key, pointer, target } from './record.mjs'
import { Socket } from './socket.mjs'
import { UdpRelay } from './udp_relay.mjs'
import { within } from './wait.mjs'

/** @typedef {import('./lab.mjs').Lab} Lab */
/** @typedef {import('./swarmgate.mjs').Server} Server */
/** @typedef {{ home: Server, away: Server, meet?: (key: Key) => Promise<void> }} Pair  `meet` has them find each other in the swarm */

const ALONE = { SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false' }

/** What the two may share. @type {Record<'dht' | 'swarm' | 'both', (lab: Lab) => Promise<Pair>>} */
export const SHARED = {
  /** A DHT of foreign nodes: no gossip, and no peer is dialled or let in. */
  dht: async (lab) => {
    const env = { ...ALONE, SWARMGATE__GOSSIP__ENABLED: 'false', SWARMGATE__BRIDGE__POLICY: 'off' }
    const dht = await lab.dht()
    const [home, away] = [await lab.server({ dht, env }), await lab.server({ dht, env })]
    return { home, away }
  },

  /** The record's topic swarm: no DHT. */
  swarm: async (lab) => {
    const [home, away] = [await lab.server({ env: ALONE }), await lab.server({ env: ALONE })]
    return { home, away, meet: introduction(home, away.bittorrent.port) }
  },

  /** A DHT of foreign nodes, by which they find each other in the topic swarm, as two servers on the internet do. */
  both: async (lab) => {
    const dht = await lab.dht()
    return { home: await lab.server({ dht, env: ALONE }), away: await lab.server({ dht, env: ALONE }) }
  },
}

/** The topic swarm, over uTP alone. @param {Lab} lab */
export async function swarmOverUtp(lab) {
  const { home, away } = await SHARED.swarm(lab)
  const relay = await UdpRelay.to(away.bittorrent)
  lab.keep(relay, relay)
  return { home, away, meet: introduction(home, relay.port), relay }
}

/** Each server is its own tracker; one is told once that the other is a peer. @param {Server} home @param {number} port */
function introduction(home, port) {
  return async (/** @type {Key} */ key) => {
    const swarm = `info_hash=${percent(target(key.public))}&peer_id=${percent(randomBytes(20))}`
    await fetch(`http://${home.ready.web}/announce?${swarm}&port=${port}&left=1&compact=1`)
  }
}

/**
 * How long each of several records, at the same time, takes from the put through one server to the subscriber of the other.
 * @param {Pair} pair
 * @param {{ runs: number, settled?: () => Promise<void> }} options  `settled`: what comes between the first version's arrival and the put
 * @returns {Promise<number[]>} seconds
 */
export function arrivals(pair, { runs, settled = async () => {} }) {
  return Promise.all(Array.from({ length: runs }, () => arrival(pair, settled)))
}

/** @param {Pair} pair @param {() => Promise<void>} settled */
async function arrival({ home, away, meet }, settled) {
  const key = new Key()
  const [author, reader] = [await Socket.open(home.socket), await Socket.open(away.socket)]
  const first = version(reader, 1)
  const subscribe = () => reader.ask({ action: 'dht_subscribe', k: key.hex })
  if (meet) {
    // Each has to be in the swarm when the other comes.
    await subscribe()
    await meet(key)
    await put(author, key, 1)
  } else {
    await put(author, key, 1)
    await subscribe()
  }
  await within(60, 'first version at the other server', first)
  await settled()
  const second = version(reader, 2)
  const begun = performance.now()
  await put(author, key, 2)
  await within(120, 'second version at the other server', second)
  const seconds = (performance.now() - begun) / 1000
  await Promise.all([author.close(), reader.close()])
  return seconds
}

/** When this version comes, as an update or in reply to the subscription. @param {Socket} socket @param {number} seq */
function version(socket, seq) {
  return new Promise((resolve) => {
    socket.ws.on('message', (data) => {
      const message = JSON.parse(String(data))
      if (['dht_update', 'dht_subscribe'].includes(message.action) && message.seq === seq) resolve(undefined)
    })
  })
}

/** @param {Socket} socket @param {Key} key @param {number} seq */
async function put(socket, key, seq) {
  const { k, v, sig } = key.record({ v: pointer(`${seq}`.padStart(2, '0').repeat(20)), seq })
  const record = { k: k.toString('hex'), v: v.toString('hex'), sig: sig.toString('hex'), seq }
  const reply = await socket.ask({ action: 'dht_put', ...record, ...(seq > 1 && { cas: seq - 1 }) })
  if (reply['failure reason']) throw new Error(`the put was refused: ${JSON.stringify(reply)}`)
}
