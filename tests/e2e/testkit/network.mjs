// A network of hosts that have nothing but each other: network namespaces joined by a switch. Needs root.

import { execFile } from 'node:child_process'
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const exec = promisify(execFile)

let networks = 0

/** Hosts on one wire, each with an address below 10.77/16, and no way out. */
export class Network {
  /** @param {string[]} names @param {{ ipv4?: boolean }} [options]  without IPv4, hosts have their IPv6 link-local addresses alone */
  static async start(names, { ipv4 = true } = {}) {
    const network = new Network(`sg${process.pid}x${networks++}`, ipv4)
    try {
      await network.#build(names)
    } catch (error) {
      await network.stop()
      throw new Error('no network namespaces can be made here; this test needs root and iproute2', { cause: error })
    }
    return network
  }

  /** @type {Map<string, Host>} */
  hosts = new Map()

  /** @param {string} prefix @param {boolean} ipv4 */
  constructor(prefix, ipv4) {
    this.prefix = prefix
    this.ipv4 = ipv4
    this.wire = `${prefix}-wire`
  }

  /** @param {string[]} names */
  async #build(names) {
    await ip('netns', 'add', this.wire)
    await ip('-n', this.wire, 'link', 'add', 'switch', 'type', 'bridge')
    await ip('-n', this.wire, 'link', 'set', 'switch', 'up')
    for (const [index, name] of names.entries()) {
      const host = new Host(`${this.prefix}-${name}`, this.ipv4 ? `10.77.0.${index + 1}` : '')
      this.hosts.set(name, host)
      await ip('netns', 'add', host.namespace)
      const [plug, socket] = ['eth0', `port${index}`]
      await ip('-n', host.namespace, 'link', 'add', plug, 'type', 'veth', 'peer', 'name', socket, 'netns', this.wire)
      await ip('-n', this.wire, 'link', 'set', socket, 'master', 'switch', 'up')
      if (this.ipv4) await ip('-n', host.namespace, 'addr', 'add', `${host.address}/24`, 'dev', plug)
      await ip('-n', host.namespace, 'link', 'set', 'lo', 'up')
      await ip('-n', host.namespace, 'link', 'set', plug, 'up')
    }
  }

  /** @param {string} name */
  host(name) {
    const host = this.hosts.get(name)
    if (!host) throw new Error(`there is no host ${name}`)
    return host
  }

  async stop() {
    const namespaces = [this.wire, ...[...this.hosts.values()].map((host) => host.namespace)]
    await Promise.allSettled(namespaces.map((namespace) => ip('netns', 'del', namespace)))
  }
}

/** One of its hosts. */
export class Host {
  /** @param {string} namespace @param {string} address */
  constructor(namespace, address) {
    this.namespace = namespace
    this.address = address
  }

  /** What a command line begins with to run here. */
  get via() {
    return ['ip', 'netns', 'exec', this.namespace]
  }

  /** A server here, and commands, are reached by the other hosts as peers and by this host alone as servers. */
  get env() {
    const any = this.address ? '0.0.0.0:0' : '[::]:0'
    return {
      SWARMGATE__BITTORRENT__LISTEN: any,
      SWARMGATE__WEBRTC__LISTEN: any,
      SWARMGATE__DHT__LISTEN: any,
      SWARMGATE__WEBRTC__STUN_LISTEN: any,
    }
  }

  /** The JSON that an address of this host answers with. @param {string} url */
  async json(url) {
    const script = `fetch(${JSON.stringify(url)}).then(async (reply) => console.log(await reply.text()))`
    const [command = '', ...args] = [...this.via, process.execPath, '--eval', script]
    const { stdout } = await exec(command, args, { timeout: 30_000 })
    return JSON.parse(stdout)
  }

  /** A program that runs `executable` here. @param {string} executable @param {string} dir */
  async wrapper(executable, dir) {
    const path = join(dir, 'here')
    await writeFile(path, `#!/bin/sh\nexec ${this.via.join(' ')} ${executable} "$@"\n`)
    await chmod(path, 0o755)
    return path
  }
}

/** @param {string[]} args */
async function ip(...args) {
  await exec('ip', args)
}
