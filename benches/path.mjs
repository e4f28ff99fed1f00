// Two hosts with a long, slow or lossy path between them: network namespaces joined by benches/pathemu. Needs root.

import { execFile, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { Host } from '../tests/e2e/testkit/network.mjs'
import { once, within } from '../tests/e2e/testkit/wait.mjs'
import { installed } from './kit.mjs'

const exec = promisify(execFile)
const EMULATOR = `${installed}/pathemu/release/pathemu`

/** @typedef {{ delay: number, rate: number, queue: number, loss: number, seed: number }} Shape  ms one way, Mbit/s, bytes, % */
/** @typedef {{ packets: number, bytes: number, lost: number, dropped: number, standing_ms: number, queue_p50_ms: number, queue_p95_ms: number }} Direction */

/** The hosts, which outlive the paths between them. */
export class TwoHosts {
  static async start() {
    const hosts = new TwoHosts()
    for (const host of [hosts.here, hosts.there]) {
      await exec('ip', ['netns', 'add', host.namespace])
      await exec('ip', ['-n', host.namespace, 'link', 'set', 'lo', 'up'])
    }
    return hosts
  }

  constructor(prefix = `sgp${process.pid}`) {
    this.here = new Host(`${prefix}-a`, '10.77.0.1')
    this.there = new Host(`${prefix}-b`, '10.77.0.2')
  }

  async stop() {
    await Promise.allSettled([this.here, this.there].map(({ namespace }) => exec('ip', ['netns', 'del', namespace])))
  }
}

/** One path; each direction is shaped alike. */
export class Path {
  /** @param {TwoHosts} hosts @param {Shape} shape */
  static async start({ here, there }, shape) {
    const ends = [here, there].map(({ namespace, address }) => `${namespace}=${address}`)
    const options = Object.entries(shape).flatMap(([name, value]) => [`--${name}`, `${value}`])
    const path = new Path(spawn(EMULATOR, [...ends, ...options], { stdio: ['pipe', 'pipe', 'inherit'] }))
    await path.#line('emulated path')
    for (const { namespace } of [here, there]) {
      // What a sender may send at once must reach the emulator's queue, not be dropped before it.
      await exec('ip', ['-n', namespace, 'link', 'set', 'wan0', 'txqueuelen', '20000'])
      // Chromium offers no addresses of a machine without a way out.
      await exec('ip', ['-n', namespace, 'route', 'add', 'default', 'dev', 'wan0'])
    }
    return path
  }

  /** @param {import('node:child_process').ChildProcess} child */
  constructor(child) {
    this.child = child
    this.lines = createInterface({ input: /** @type {NodeJS.ReadableStream} */ (child.stdout) })
    this.exit = once(child, 'exit')
  }

  /** @param {string} what */
  async #line(what) {
    const gone = this.exit.then(() => Promise.reject(new Error('the emulator ended')))
    gone.catch(() => {}) // an end after the line is no failure
    return (await within(10, what, Promise.race([once(this.lines, 'line'), gone])))[0]
  }

  /** What went over it since it was last asked. @returns {Promise<{ a_to_b: Direction, b_to_a: Direction }>} */
  async report() {
    const line = this.#line('report of the emulator')
    this.child.stdin?.write('\n')
    return JSON.parse(await line)
  }

  async stop() {
    this.child.stdin?.end()
    await within(10, 'end of the emulator', this.exit)
  }
}
