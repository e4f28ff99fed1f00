import { expect, test } from 'vitest'

import { MemoryStore } from './memory-store.ts'

const get = (store: MemoryStore, index: number, options: { offset?: number; length?: number } | null = null) =>
  new Promise((resolve, reject) =>
    store.get(index, options, (error, chunk) => (error ? reject(error) : resolve(chunk))),
  )

test('keeps chunks, gives parts of them, and forgets on demand', async () => {
  const store = new MemoryStore(4)
  await new Promise((done) => store.put(1, Uint8Array.of(1, 2, 3, 4), done))
  expect(await get(store, 1)).toEqual(Uint8Array.of(1, 2, 3, 4))
  expect(await get(store, 1, { offset: 1, length: 2 })).toEqual(Uint8Array.of(2, 3))
  expect(await get(store, 1, { offset: 3 })).toEqual(Uint8Array.of(4))
  expect(await new Promise((done) => store.get(1, (_error, chunk) => done(chunk)))).toHaveLength(4)
  await expect(get(store, 0)).rejects.toThrow('the chunk is not there yet')
  await new Promise((done) => store.destroy(done))
  await expect(get(store, 1)).rejects.toThrow()
})
