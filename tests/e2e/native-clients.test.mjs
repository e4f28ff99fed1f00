// Native clients announce themselves over HTTP and UDP, IPv4 and IPv6.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { percent } from './testkit/canary.mjs'
import { CLIENTS, NativeClient, torrent } from './testkit/native_clients.mjs'
import { eventually } from './testkit/wait.mjs'

/** What a client cannot do by itself; everything else it must. */
/** @type {Record<string, string[]>} */
const CANNOT = {
  transmission: ['udp6'], // 3.00 speaks UDP to trackers over IPv4 only
  aria2: ['udp6'], // its UDP trackers go through the socket of its DHT, which is IPv4
}

for (const name of Object.keys(CLIENTS)) {
  trial(`${name} announces over HTTP and UDP, IPv4 and IPv6`, async (lab) => {
    const server = await lab.server({
      env: { SWARMGATE__WEB__LISTEN: '[::]:0', SWARMGATE__TRACKER__UDP_LISTEN: '[::]:0' },
    })
    const [web, udp] = [port(server.ready.web), port(server.ready.udp_tracker)]
    const trackers = {
      http4: `http://127.0.0.1:${web}/announce`,
      http6: `http://[::1]:${web}/announce`,
      udp4: `udp://127.0.0.1:${udp}/announce`,
      udp6: `udp://[::1]:${udp}/announce`,
    }
    const dir = await lab.directory()
    const able = Object.entries(trackers).filter(([way]) => !CANNOT[name]?.includes(way))
    const torrents = await Promise.all(able.map(([way, tracker]) => torrent(dir, `${name}-${way}`, tracker)))
    const files = torrents.map(({ file }) => file)
    const client = await NativeClient.start(name, dir, files)
    lab.keep(client, { stop: () => client.stop(), account: () => `${name}\n${client.output}` })

    const query = torrents.map(({ infoHash }) => `info_hash=${percent(infoHash)}`).join('&')
    const all = async () => {
      const answer = await fetch(`http://127.0.0.1:${web}/scrape?${query}`)
      // The keys are binary, which the decoder takes for UTF-8: so the text is searched for what is expected of it.
      const text = Buffer.from(await answer.arrayBuffer()).toString('latin1')
      const counts = 'd8:completei0e10:downloadedi0e10:incompletei1ee'
      return torrents.every(({ infoHash }) => text.includes(`20:${infoHash.toString('latin1')}${counts}`)) || null
    }
    const ways = able.map(([way]) => way)
    await eventually(40, `announces of ${name} by ${ways.join(', ')}`, all)
    assert.equal(
      (await server.metrics()).match(/tracker_errors_total\{door="\w+"\} [1-9]/),
      null,
      'nothing was refused',
    )
  })
}

/** @param {string} address */
function port(address) {
  return address.slice(address.lastIndexOf(':') + 1)
}
