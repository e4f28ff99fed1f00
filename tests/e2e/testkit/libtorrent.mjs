// A libtorrent peer: a Python helper, because the binding comes with Debian's Python.

import { spawn } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { nextAddress } from './dht.mjs'
import { eventually, once, within } from './wait.mjs'

const PYTHON = '/usr/bin/python3' // the interpreter that Debian's python3-libtorrent belongs to
const HELPER = fileURLToPath(new URL('libtorrent_peer.py', import.meta.url))

/** Settings by which it takes and makes no other connections than these. */
export const ONLY = {
  tcp: {},
  utp: {
    enable_outgoing_tcp: false,
    enable_incoming_tcp: false,
    enable_outgoing_utp: true,
    enable_incoming_utp: true,
  },
  /** RC4; pe_forced is 0, the level for RC4 alone is 2. */
  encrypted: { out_enc_policy: 0, in_enc_policy: 0, allowed_enc_level: 2 },
  /** Only the handshake is encrypted; the level for plaintext alone is 1. */
  hidden: { out_enc_policy: 0, in_enc_policy: 0, allowed_enc_level: 1 },
}

export class Libtorrent {
  /** @param {Record<string, unknown>} [settings] @param {string} [host]  a loopback address, of either family */
  static async start(settings = {}, host = nextAddress()) {
    const child = spawn(PYTHON, [HELPER, host, JSON.stringify(settings)], { stdio: ['pipe', 'pipe', 'pipe'] })
    const peer = new Libtorrent(child, host)
    await peer.started
    return peer
  }

  /** @param {import('node:child_process').ChildProcessWithoutNullStreams} child @param {string} host */
  constructor(child, host) {
    this.child = child
    this.host = host
    this.port = 0
    this.calls = 0
    /** @type {string[]} the last alerts, to show when a test fails */
    this.log = []
    this.events = new EventEmitter().setMaxListeners(0)
    createInterface({ input: child.stdout }).on('line', (line) => this.#line(JSON.parse(line)))
    createInterface({ input: child.stderr }).on('line', (line) => this.log.push(line))
    this.exit = once(child, 'exit')
    /** @type {Promise<never>} */
    this.died = this.exit.then(() => {
      throw new Error(`libtorrent ended: ${this.log.join('\n')}`)
    })
    this.died.catch(() => {}) // a stop is no failure
    this.started = within(15, 'libtorrent session', Promise.race([once(this.events, 'ready'), this.died]))
  }

  /** @param {any} message */
  #line(message) {
    if ('id' in message) return this.events.emit(`answer ${message.id}`, message)
    if (message.event === 'ready') this.port = message.port
    if (message.event === 'alert') this.log.push(message.message)
    this.log.splice(0, this.log.length - 40)
    return this.events.emit(message.event, message)
  }

  /** @param {string} what @param {object} [args] */
  async #do(what, args) {
    const id = ++this.calls
    const answer = once(this.events, `answer ${id}`)
    this.child.stdin.write(JSON.stringify({ id, do: what, ...args }) + '\n')
    const [{ result, error }] = await within(20, `answer of libtorrent to ${what}`, Promise.race([answer, this.died]))
    if (error) throw new Error(`libtorrent could not ${what}: ${error}`)
    return result
  }

  /** Joins a DHT; resolves when some of its nodes have answered. @param {{ host: string, port: number }[]} nodes */
  async joinDht(nodes) {
    await this.#do('join_dht', { nodes: nodes.map(({ host, port }) => [host, port]) })
    const enough = Math.ceil(nodes.length / 2)
    await eventually(20, 'DHT nodes in the table of libtorrent', async () => (await this.dhtNodes()) >= enough || null)
  }

  /**
   * Seeds the folder, or the file, where it lies.
   * @param {string} dir
   * @param {number} [pieceSize]
   * @param {boolean} [hybrid]  of version 2 too (BEP 52); the info hash is that of version 1
   * @returns {Promise<{ info_hash: string, pieces: number, size: number }>}
   */
  seed(dir, pieceSize = 16384, hybrid = false) {
    return this.#do('seed', { dir, piece_size: pieceSize, hybrid })
  }

  /** @param {string} infoHash */
  announce(infoHash) {
    return this.#do('announce', { info_hash: infoHash })
  }

  /**
   * Starts a download by info hash alone, or also by trackers; resolves when it has begun.
   * @param {string} infoHash
   * @param {string} dir
   * @param {string[]} [trackers]
   */
  async download(infoHash, dir, trackers = []) {
    await this.#do('download', { info_hash: infoHash, dir, trackers })
  }

  /** Downloads from a web seed (BEP 19) and from nobody else. @param {string} file @param {string} url @param {string} dir */
  async downloadFrom(file, url, dir) {
    await this.#do('download_from', { file, url, dir })
  }

  /** @param {string} infoHash */
  finished(infoHash) {
    return once(this.events, 'finished', (event) => event.info_hash === infoHash)
  }

  /** Dials a peer of a torrent. @param {string} infoHash @param {string} host @param {number} port */
  async connect(infoHash, host, port) {
    await this.#do('connect', { info_hash: infoHash, host, port })
  }

  /**
   * Peers connected now, and whether peer exchange named them.
   * @param {string} infoHash
   * @returns {Promise<{ host: string, port: number, pex: boolean }[]>}
   */
  peers(infoHash) {
    return this.#do('peers', { info_hash: infoHash })
  }

  /** @param {string} infoHash @param {number} rate bytes a second, 0 for no limit */
  async limitUpload(infoHash, rate) {
    await this.#do('limit_upload', { info_hash: infoHash, rate })
  }

  /** Bytes of content sent to others. @param {string} infoHash @returns {Promise<number>} */
  uploaded(infoHash) {
    return this.#do('uploaded', { info_hash: infoHash })
  }

  /** Bytes of content received from others. @param {string} infoHash @returns {Promise<number>} */
  downloaded(infoHash) {
    return this.#do('downloaded', { info_hash: infoHash })
  }

  /** Nodes in the DHT routing table. @returns {Promise<number>} */
  dhtNodes() {
    return this.#do('dht_nodes')
  }

  /**
   * The record as libtorrent has it from the DHT, its binary fields in hexadecimal, or null.
   * @param {Buffer} k
   * @param {Buffer} [salt]  UTF-8
   * @returns {Promise<{ v: string, sig: string, seq: number } | null>}
   */
  async getMutable(k, salt = Buffer.alloc(0)) {
    const wanted = { k: k.toString('hex'), salt: salt.toString('hex') }
    const matches = (/** @type {any} */ item) => item.k === wanted.k && item.salt === wanted.salt && item.authoritative
    const found = once(this.events, 'mutable', matches)
    await this.#do('get_mutable', wanted)
    const [{ v, sig, seq }] = await within(30, 'answer of libtorrent to a DHT get', Promise.race([found, this.died]))
    return v === null ? null : { v, sig, seq }
  }

  /**
   * Puts a byte string, with the number after that of what it finds; resolves with how many nodes took it.
   * @param {import('./record.mjs').Key} key
   * @param {Buffer} data
   * @param {Buffer} [salt]
   * @returns {Promise<number>}
   */
  async putMutable(key, data, salt = Buffer.alloc(0)) {
    const stored = once(this.events, 'put', (event) => event.k === key.hex)
    const [seed, k] = [key.seed.toString('hex'), key.hex]
    await this.#do('put_mutable', { seed, k, data: data.toString('hex'), salt: salt.toString('hex') })
    const [{ nodes }] = await within(30, 'end of a put of libtorrent', Promise.race([stored, this.died]))
    return nodes
  }

  async stop() {
    this.child.stdin.end()
    await within(10, 'end of libtorrent', this.exit)
  }
}
