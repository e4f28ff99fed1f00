// Milliseconds to a record that a server does not have, from a DHT of which half has just gone without a word: until the first
// version that somebody has, and until it is sure that there is no newer one. Prints a line of JSON for each, with the
// release build if SWARMGATE_BIN names it.
//
//   node benches/cold_get.mjs [--nodes 40] [--records 20]

import { parseArgs } from 'node:util'
import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { Key } from '../tests/e2e/testkit/record.mjs'
import { Socket } from '../tests/e2e/testkit/socket.mjs'
import { spread } from './kit.mjs'

const { values } = parseArgs({
  options: { nodes: { type: 'string', default: '40' }, records: { type: 'string', default: '20' } },
})
const [nodes, records] = [Number(values.nodes), Number(values.records)]

/** What is asked, each of other records. @type {Record<string, object>} */
const GETS = {
  'first version (min_seq 0)': { action: 'dht_get', min_seq: 0 },
  'first version (subscription)': { action: 'dht_subscribe' },
  'newest for sure': { action: 'dht_get', mode: 'network' },
}

const lab = new Lab()
try {
  const dht = await lab.dht(nodes)
  const server = await lab.server({ dht })
  const socket = await Socket.open(server.socket)
  /** @type {Map<string, number[]>} */
  const took = new Map(Object.keys(GETS).map((what) => [what, []]))
  /** @type {[string, object, Key][]} */
  const asked = []
  for (let number = 0; number < records; number++) {
    for (const [what, get] of Object.entries(GETS)) asked.push([what, get, new Key()])
  }
  for (const [, , key] of asked) await dht.first.put(key, { v: { ih: Buffer.alloc(20, 1) }, seq: 1 })
  // Every second one is gone; the first is the one that the server was told of.
  for (const [number, node] of dht.nodes.entries()) if (number % 2) await node.stop()
  for (const [what, get, key] of asked) {
    const begun = performance.now()
    const { seq } = await socket.ask({ ...get, k: key.hex })
    if (seq !== 1) throw new Error(`${what}: not found`)
    took.get(what)?.push(performance.now() - begun)
  }
  await socket.close()
  for (const [what, times] of took) {
    const { median, least, most } = spread(times)
    const milliseconds = { median, least, most }
    for (const [name, ms] of Object.entries(milliseconds))
      Object.assign(milliseconds, { [name]: Number(ms.toFixed(1)) })
    console.log(JSON.stringify({ bench: 'cold get, half of the DHT gone', what, nodes, records, milliseconds }))
  }
} finally {
  await lab.close()
}
