// What a test has around it: everything it starts is stopped when it ends, last first, and when it failed, what each of
// them had to say is shown.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Browser } from './chromium.mjs'
import { DhtNode, LocalDht } from './dht.mjs'
import { Libtorrent } from './libtorrent.mjs'
import { environment, Foreground, Server } from './swarmgate.mjs'
import { ForeignTracker, WebTorrentSite } from './webtorrent.mjs'

/** @typedef {{ stop: () => Promise<unknown>, account?: () => string }} Part */

export class Lab {
  /** @type {Part[]} */
  #parts = []
  /** @type {string[]} */
  #notes = []

  /** Has `part` stopped at the end. @template T @param {T} thing @param {Part} part @returns {T} */
  keep(thing, part) {
    this.#parts.push(part)
    return thing
  }

  /** An empty directory. */
  async directory() {
    const dir = await mkdtemp(join(tmpdir(), 'swarmgate-'))
    return this.keep(dir, { stop: () => rm(dir, { recursive: true, force: true }) })
  }

  /** A DHT of bittorrent-dht nodes. @param {number} [size] */
  async dht(size = 8) {
    const dht = await LocalDht.start(size)
    return this.keep(dht, dht)
  }

  /** A bittorrent-dht node that joins only now, and so holds nothing itself. @param {LocalDht} dht */
  async newcomer(dht) {
    const node = await DhtNode.start(dht.nodes)
    this.keep(node, node)
    await node.ready()
    return node
  }

  /** A libtorrent peer in that DHT. @param {LocalDht} [dht] @param {Record<string, unknown>} [settings] @param {string} [host] */
  async libtorrent(dht, settings, host) {
    const peer = await Libtorrent.start(settings, host)
    this.keep(peer, { stop: () => peer.stop(), account: () => `libtorrent ${peer.host}\n${peer.log.join('\n')}` })
    if (dht) await peer.joinDht(dht.nodes)
    return peer
  }

  /**
   * A running server.
   * @param {{ dht?: LocalDht, bootstrap?: string[], env?: Record<string, string>, dataDir?: string, via?: string[] }} [options]
   */
  async server({ dht, bootstrap = dht ? [dht.first.address] : [], env = {}, dataDir, via } = {}) {
    const server = await Server.start({
      dataDir: dataDir ?? (await this.directory()),
      bootstrap,
      env,
      ...(via && { via }),
    })
    return this.keep(server, { stop: () => server.stop(), account: () => `swarmgate serve\n${server.stderr}` })
  }

  /**
   * A command that stays in the foreground until it is told to stop.
   * @param {string[]} args
   * @param {{ dht?: LocalDht, dataDir: string, env?: Record<string, string>, via?: string[] }} options
   */
  async foreground(args, { dht, dataDir, env = {}, via }) {
    const bootstrap = dht ? [dht.first.address] : []
    const program = new Foreground(args, { ...environment(dataDir, bootstrap), ...env }, undefined, via)
    return this.keep(program, { stop: () => program.stop(), account: () => `swarmgate ${args[0]}\n${program.stderr}` })
  }

  /** @param {string} [executable] @param {() => void} [script]  run in every page before its own @param {string[]} [args] */
  async browser(executable, script, args) {
    const browser = await Browser.start(executable, script, args)
    return this.keep(browser, { stop: () => browser.stop(), account: () => `pages\n${browser.log.join('\n')}` })
  }

  /** @param {string} [host] */
  async webTorrentSite(host) {
    const site = await WebTorrentSite.start(host)
    return this.keep(site, site)
  }

  /** A tracker of somebody else's. */
  async foreignTracker() {
    const tracker = await ForeignTracker.start()
    tracker.tracker.on('error', (/** @type {Error} */ error) => this.note(`tracker: ${error}`))
    return this.keep(tracker, tracker)
  }

  /** Something to show when the test fails. @param {string} text */
  note(text) {
    this.#notes.push(text)
  }

  /** What everything that runs has said so far. */
  account() {
    const accounts = this.#parts.flatMap((part) => (part.account ? [`--- ${part.account()}`] : []))
    return [...accounts, ...this.#notes].join('\n')
  }

  /** Stops everything, last first; throws the first failure after all have been tried. */
  async close() {
    /** @type {unknown[]} */
    const failures = []
    for (const part of this.#parts.reverse()) {
      await part.stop().catch((error) => failures.push(error))
    }
    if (failures.length > 0) throw failures[0]
  }
}

/**
 * A test with a lab.
 * @param {string} name
 * @param {(lab: Lab) => Promise<void>} body
 */
export function trial(name, body) {
  test(name, { timeout: 240_000 }, async () => {
    const lab = new Lab()
    try {
      await body(lab)
    } catch (error) {
      console.error(lab.account())
      await lab.close().catch(() => {}) // the first failure is the one to tell
      throw error
    }
    await lab.close()
  })
}
