// A subscriber hears of a put through another server within seconds, when the two share nothing but the DHT, and when they
// share nothing but the record's topic swarm. `benches/other_server.mjs` measures the same.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { arrivals, SHARED } from './testkit/other_server.mjs'
import { Socket } from './testkit/socket.mjs'

for (const [what, share] of Object.entries(SHARED)) {
  trial(`a put reaches the subscribers of another server that shares only the ${what}`, async (lab) => {
    const pair = await share(lab)
    const seconds = await arrivals(pair, { runs: 5 })
    console.log(`put to subscriber of another server, ${what}: ${seconds.map((s) => s.toFixed(2)).join(', ')} s`)
    assert.ok(Math.max(...seconds) < 60)

    // And that was the only way.
    for (const server of [pair.home, pair.away]) {
      const socket = await Socket.open(server.socket)
      const { dht } = await socket.ask({ action: 'dht_info' })
      assert.equal(dht.nodes > 0, what === 'dht', `${dht.nodes} DHT nodes`)
      assert.equal(/^swarmgate_gossip_records_total/m.test(await pair.away.metrics()), what === 'swarm')
      await socket.close()
    }
  })
}
