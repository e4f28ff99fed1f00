// The program under test: a server in the background, and its commands.

import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { once, within } from './wait.mjs'

export const BINARY =
  process.env['SWARMGATE_BIN'] ?? fileURLToPath(new URL('../../../target/debug/swarmgate', import.meta.url))

/** @typedef {{ event: 'ready', web: string, admin: string, udp_tracker: string, dht: string, dht_ipv6?: string, bittorrent: string, webrtc: string, stun?: string }} Ready */
/** @typedef {{ code: number | null, stdout: string, stderr: string, json: any }} Outcome */

/**
 * Every listener on a free port of loopback, a DHT of our own, and pins on a disk however full it is.
 * @param {string} dataDir @param {string[]} bootstrap
 */
export function environment(dataDir, bootstrap) {
  const free = '127.0.0.1:0'
  return {
    SWARMGATE__DATA_DIR: dataDir,
    SWARMGATE__WEB__LISTEN: free,
    SWARMGATE__ADMIN__LISTEN: free,
    SWARMGATE__TRACKER__UDP_LISTEN: free,
    SWARMGATE__DHT__LISTEN: free,
    SWARMGATE__BITTORRENT__LISTEN: free,
    SWARMGATE__WEBRTC__LISTEN: free,
    SWARMGATE__WEBRTC__STUN_LISTEN: free,
    SWARMGATE__DHT__BOOTSTRAP: JSON.stringify(bootstrap),
    SWARMGATE__PINS__KEEP_FREE: '0',
  }
}

/** A process whose output is kept. */
class Program {
  /** @param {string[]} args @param {NodeJS.ProcessEnv} env @param {string} [cwd] @param {string[]} [via] what the command line begins with */
  constructor(args, env, cwd, via = []) {
    this.name = `swarmgate ${args[0]}`
    const [command = '', ...rest] = [...via, BINARY, ...args]
    this.child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env }, cwd })
    const kill = () => this.child.kill('SIGKILL')
    process.once('exit', kill)
    this.stdout = ''
    this.stderr = ''
    this.lines = createInterface({ input: this.child.stdout })
    this.child.stdout.on('data', (data) => {
      this.stdout += data
    })
    this.child.stderr.on('data', (data) => {
      this.stderr += data
    })
    /** @type {Promise<number | null>} */
    this.exit = once(this.child, 'close').then(([code]) => {
      process.off('exit', kill)
      return code
    })
  }

  /** The first line of JSON on standard output that `accept` takes. @param {number} seconds @param {string} what @param {(line: any) => boolean} accept */
  json(seconds, what, accept = () => true) {
    const line = once(this.lines, 'line', (text) => text.startsWith('{') && accept(JSON.parse(text))).then(([text]) =>
      JSON.parse(text),
    )
    const gone = this.exit.then((code) => {
      throw new Error(`${this.name} ended with ${code} before its ${what}: ${this.stderr}`)
    })
    gone.catch(() => {}) // an end after the line is no failure
    return within(seconds, what, Promise.race([line, gone]))
  }

  /** @param {NodeJS.Signals} [signal] */
  async stop(signal = 'SIGTERM') {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal)
    const code = await within(15, `end of ${this.name} after ${signal}`, this.exit)
    if (code !== 0) throw new Error(`${this.name} ended with ${code} after ${signal}: ${this.stderr}`)
  }
}

/** A running `swarmgate serve`. */
export class Server extends Program {
  /** @param {{ dataDir: string, bootstrap?: string[], env?: Record<string, string>, via?: string[] }} options */
  static async start({ dataDir, bootstrap = [], env = {}, via }) {
    const server = new Server(['serve'], { ...environment(dataDir, bootstrap), ...env }, undefined, via)
    server.ready = await server.json(20, 'ready line', (line) => line.event === 'ready')
    return server
  }

  /** Stops it; fails unless that was in order. @param {NodeJS.Signals} [signal] */
  async stop(signal) {
    await super.stop(signal)
    const trouble = /panicked|still running/.exec(this.stderr)
    if (trouble) throw new Error(`the server's log says "${trouble[0]}": ${this.stderr}`)
  }

  /** @type {Ready} */
  ready = /** @type {any} */ (undefined)

  /** The page's address. */
  get page() {
    return `http://${this.ready.web}/`
  }

  /** The WebSocket's address. */
  get socket() {
    return `ws://${this.ready.web}/announce`
  }

  get web() {
    return hostAndPort(this.ready.web)
  }

  get dht() {
    return hostAndPort(this.ready.dht)
  }

  /** Of a server that listens on both families. */
  get dhtIpv6() {
    return hostAndPort(this.ready.dht_ipv6 ?? '')
  }

  get bittorrent() {
    return hostAndPort(this.ready.bittorrent)
  }

  async metrics() {
    return (await fetch(`http://${this.ready.admin}/metrics`)).text()
  }

  /** Resident memory in MiB, and what of it is this process's own. */
  async memory() {
    const status = await readFile(`/proc/${this.child.pid}/status`, 'utf8')
    const mib = (/** @type {string} */ name) =>
      Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024
    return { resident: mib('VmRSS'), own: mib('RssAnon'), peak: mib('VmHWM') }
  }
}

/** A command that goes on in the foreground, such as `publish`. */
export class Foreground extends Program {}

/**
 * Runs a command to its end.
 * @param {string[]} args
 * @param {{ env?: Record<string, string>, seconds?: number, cwd?: string }} [options]
 * @returns {Promise<Outcome>}
 */
export async function run(args, { env = {}, seconds = 60, cwd } = {}) {
  const program = new Program(args, env, cwd)
  try {
    const code = await within(seconds, `end of swarmgate ${args[0]}`, program.exit)
    const { stdout, stderr } = program
    return {
      code,
      stdout,
      stderr,
      json: stdout.startsWith('{') ? JSON.parse(stdout.split('\n', 1)[0] ?? '') : undefined,
    }
  } finally {
    program.child.kill('SIGKILL')
  }
}

/** @param {string} address  an IPv6 one in brackets */
function hostAndPort(address) {
  const colon = address.lastIndexOf(':')
  return { host: address.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(address.slice(colon + 1)) }
}
