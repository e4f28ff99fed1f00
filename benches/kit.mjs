// What the measurements share: servers on one processor, generators on the other, and figures of several runs.

import { spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Server } from '../tests/e2e/testkit/swarmgate.mjs'

export const top = fileURLToPath(new URL('..', import.meta.url))

/** Where peers and generators are installed. */
export const installed = join(top, 'target/bench')

/** @param {number} processor */
const on = (processor) => ['taskset', '-c', `${processor}`]

/** Our server, with no DHT but itself. @param {string} dataDir @param {Record<string, string>} [env] @returns {Promise<Running>} */
export async function swarmgate(dataDir, env) {
  if (!process.env['SWARMGATE_BIN']) throw new Error('SWARMGATE_BIN names no release build')
  const server = await Server.start({ dataDir, via: on(0), ...(env && { env }) })
  return new Running(server.child, server.ready.web)
}

/** Another server, which listens on a port we know. @param {string[]} command @param {number} port @param {Record<string, string>} env */
export async function peer(command, port, env) {
  const [program = '', ...parameters] = [...on(0), ...command]
  const child = spawn(program, parameters, { stdio: 'ignore', env: { ...process.env, ...env } })
  const gone = once(child, 'exit').then(([code]) => Promise.reject(new Error(`${command[0]} ended with ${code}`)))
  gone.catch(() => {}) // an end after it has listened is no failure
  await Promise.race([listening(port), gone])
  return new Running(child, `127.0.0.1:${port}`)
}

class Running {
  /** @param {import('node:child_process').ChildProcess} child @param {string} address */
  constructor(child, address) {
    this.child = child
    this.address = address
  }

  /** What a generator says of it: one line of JSON. @param {string} program @param {string[]} parameters @returns {Promise<any>} */
  async measured(program, ...parameters) {
    const [command = '', ...rest] = [...on(1), program, ...parameters]
    return JSON.parse(await output(command, ...rest, '--addr', this.address, '--pid', `${this.child.pid}`))
  }

  /** Bytes in memory. */
  async resident() {
    const status = await readFile(`/proc/${this.child.pid}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024
  }

  /** @param {NodeJS.Signals} signal */
  async stop(signal = 'SIGKILL') {
    this.child.kill(signal)
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, 'exit')
  }
}

/** Clock ticks in a second, by which the kernel counts processor time (`CLK_TCK`). */
const TICKS = 100

/** Processor time of a process so far, its own and the kernel's for it, in seconds. @param {number} pid */
export async function processorTime(pid) {
  // Its name, in brackets, may hold anything.
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /s, '').split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS
}

/** The figure in the middle, and between which it was. @param {number[]} samples */
export function spread(samples) {
  const sorted = samples.toSorted((a, b) => a - b)
  return { median: sorted[sorted.length >> 1] ?? NaN, least: sorted[0] ?? NaN, most: sorted.at(-1) ?? NaN }
}

/** The same as a column. @param {number[]} samples @param {number} [digits] behind the point */
export function summary(samples, digits = 2) {
  const [median, least, most] = Object.values(spread(samples)).map((figure) => figure.toFixed(digits))
  return `${median?.padStart(8)} ${`(${least} to ${most})`.padEnd(18)}`
}

/** Our server's command, listening on these addresses, with no DHT but itself. @param {string} dir @param {Record<string, string>} listen */
export function swarmgateCommand(dir, listen) {
  const program = process.env['SWARMGATE_BIN'] ?? join(top, 'target/release/swarmgate')
  const free = Object.fromEntries(
    ['web.listen', 'tracker.udp_listen', 'admin.listen', 'dht.listen', 'bittorrent.listen', 'webrtc.listen'].map(
      (door) => [door, '127.0.0.1:0'],
    ),
  )
  const settings = Object.entries({ ...free, ...listen }).flatMap(([key, address]) => ['--set', `${key}=${address}`])
  return [program, 'serve', '--data-dir', dir, ...settings, '--set', 'dht.bootstrap=[]', '--set', 'webrtc.stun=false']
}

/** A port that nobody listens on. @param {'tcp' | 'udp'} protocol @returns {Promise<number>} */
export async function freePort(protocol) {
  const socket = protocol === 'udp' ? createSocket('udp4').bind(0, '127.0.0.1') : createServer().listen(0, '127.0.0.1')
  await once(socket, 'listening')
  const address = socket.address()
  socket.close()
  await once(socket, 'close')
  if (address === null || typeof address === 'string') throw new Error('not a port')
  return address.port
}

/**
 * Waits until something listens, by the kernel's list: a connection would count as a client.
 * @param {number} port @param {'tcp' | 'udp'} [protocol]
 */
export async function listening(port, protocol = 'tcp') {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')} `
  // A TCP socket that listens (`TCP_LISTEN`), or any UDP socket.
  const state = protocol === 'tcp' ? ' 0A ' : ''
  const deadline = Date.now() + 20_000
  while (Date.now() < deadline) {
    const lists = await Promise.all([protocol, `${protocol}6`].map((kind) => readFile(`/proc/net/${kind}`, 'utf8')))
    if (lists.some((list) => list.split('\n').some((line) => line.includes(local) && line.includes(state)))) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('it does not listen')
}

/** What a program prints. @param {string} program @param {string[]} parameters @returns {Promise<string>} */
export async function output(program, ...parameters) {
  return printed(spawn(program, parameters))
}

/** What a child process prints until it ends. @param {import('node:child_process').ChildProcessWithoutNullStreams} child */
export async function printed(child) {
  let [text, trouble] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (chunk) => (text += chunk))
  child.stderr.setEncoding('utf8').on('data', (chunk) => (trouble += chunk))
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`${child.spawnargs.join(' ')} ended with ${code}: ${trouble}`)
  return text
}
