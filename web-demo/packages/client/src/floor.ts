/** The highest sequence number seen of each target: what is older is never taken again, whoever offers it. */
export interface Floor {
  /** The highest seq seen of `target`; −1 for none. */
  read(target: string): number | Promise<number>
  /** Remembers that `seq` was seen; never lowers what is remembered. */
  raise(target: string, seq: number): void | Promise<void>
}

/** Targets remembered by {@link memoryFloor}; the one raised longest ago is forgotten first. */
const MEMORY_TARGETS = 10_000

/** Remembers until the page is closed. */
export function memoryFloor(): Floor {
  const seen = new Map<string, number>()
  const read = (target: string) => seen.get(target) ?? -1
  return {
    read,
    raise(target, seq) {
      const highest = Math.max(seq, read(target))
      seen.delete(target)
      seen.set(target, highest)
      if (seen.size > MEMORY_TARGETS) seen.delete(seen.keys().next().value as string)
    },
  }
}

/** Remembers in `localStorage`, for all tabs and visits. Where storage is refused or full it remembers in memory only. */
export function localFloor(storage: Pick<Storage, 'getItem' | 'setItem'>, prefix = 'swarmgate:seq:'): Floor {
  const memory = memoryFloor()
  const read = (target: string) => {
    let stored = NaN
    try {
      stored = Number(storage.getItem(prefix + target) ?? NaN)
    } catch {
      // storage is off for this page
    }
    return Math.max(Number.isSafeInteger(stored) ? stored : -1, memory.read(target) as number)
  }
  return {
    read,
    raise(target, seq) {
      const highest = Math.max(seq, read(target))
      void memory.raise(target, highest)
      try {
        storage.setItem(prefix + target, String(highest))
      } catch {
        // full, or off; memory has it
      }
    },
  }
}
