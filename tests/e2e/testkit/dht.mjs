// A local DHT of foreign nodes. Each node has a loopback address of its own, as it would on the Internet: node limits and
// tokens go by address, and no client's defences have to be switched off.

import DHT from 'bittorrent-dht'
import { verifies } from './record.mjs'
import { once, within } from './wait.mjs'

let addresses = 0

/** The next unused loopback address: 127.0.1.1, 127.0.1.2, … */
export function nextAddress() {
  addresses += 1
  return `127.0.${1 + (addresses >> 8)}.${addresses & 255}`
}

/** One bittorrent-dht node. */
export class DhtNode {
  /** @param {{ host: string, port: number }[]} bootstrap */
  static async start(bootstrap = []) {
    const host = nextAddress()
    const node = new DHT({ bootstrap: bootstrap.map(({ host, port }) => `${host}:${port}`), verify: verifies })
    node.on('error', () => {}) // reported by the call that it belongs to
    node.listen(0, host)
    await within(5, 'DHT node listening', once(node, 'listening'))
    return new DhtNode(node, host)
  }

  /** @param {any} node @param {string} host */
  constructor(node, host) {
    this.node = node
    this.host = host
    this.port = /** @type {number} */ (node.address().port)
  }

  get address() {
    return `${this.host}:${this.port}`
  }

  /** Resolves when the node has looked for its own neighbours. */
  async ready() {
    if (!this.node.ready) await within(20, 'DHT node ready', once(this.node, 'ready'))
  }

  /**
   * Puts a record whose value is any bencodable thing: bittorrent-dht encodes and signs it by itself.
   * @param {import('./record.mjs').Key} key
   * @param {{ v: unknown, seq: number, salt?: Buffer, cas?: number }} record
   * @returns {Promise<number>} nodes that took it
   */
  put(key, { v, seq, salt, cas }) {
    const sign = (/** @type {Buffer} */ message) => key.sign(message)
    const options = { k: key.public, v, seq, sign, ...(salt?.length && { salt }), ...(cas !== undefined && { cas }) }
    return within(
      20,
      'answer to a DHT put',
      new Promise((resolve, reject) => {
        this.node.put(options, (/** @type {any} */ error, /** @type {any} */ _, /** @type {number} */ nodes) => {
          if (error) reject(error)
          else resolve(nodes)
        })
      }),
    )
  }

  /**
   * @param {Buffer} target
   * @param {Buffer} [salt]
   * @returns {Promise<{ v: any, k?: Buffer, sig?: Buffer, seq?: number } | null>}
   */
  get(target, salt) {
    const options = { cache: false, ...(salt?.length && { salt }) }
    return within(
      20,
      'answer to a DHT get',
      new Promise((resolve, reject) => {
        this.node.get(target, options, (/** @type {any} */ error, /** @type {any} */ item) =>
          error ? reject(error) : resolve(item),
        )
      }),
    )
  }

  /** What this node itself keeps under a target. @param {Buffer} target @returns {{ seq: number, sig: Uint8Array } | undefined} */
  holds(target) {
    return this.node._values.get(target.toString('hex'))
  }

  /** Lets go of every item, as nodes may after two hours (BEP 44). */
  forget() {
    this.node._values.clear()
  }

  /**
   * Resolves when somebody announces the info hash to this node.
   * @param {string} infoHash
   */
  announced(infoHash) {
    return once(this.node, 'announce', (_, hash) => Buffer.from(hash).toString('hex') === infoHash)
  }

  stop() {
    return new Promise((resolve) => this.node.destroy(() => resolve(undefined)))
  }
}

/** Several bittorrent-dht nodes that know each other. */
export class LocalDht {
  /** @param {number} size */
  static async start(size) {
    const nodes = [await DhtNode.start()]
    const first = /** @type {DhtNode} */ (nodes[0])
    while (nodes.length < size) nodes.push(await DhtNode.start([first]))
    await Promise.all(nodes.map((node) => node.ready()))
    return new LocalDht(nodes)
  }

  /** @param {DhtNode[]} nodes */
  constructor(nodes) {
    this.nodes = nodes
  }

  get first() {
    return /** @type {DhtNode} */ (this.nodes[0])
  }

  get last() {
    return /** @type {DhtNode} */ (this.nodes.at(-1))
  }

  /**
   * Resolves when any node has been told of a peer of the info hash.
   * @param {string} infoHash
   * @param {number} [seconds]
   */
  announced(infoHash, seconds = 30) {
    return within(seconds, 'announce to the DHT', Promise.race(this.nodes.map((node) => node.announced(infoHash))))
  }

  async stop() {
    await Promise.all(this.nodes.map((node) => node.stop()))
  }
}
