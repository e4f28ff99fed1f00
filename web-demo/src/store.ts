/** Holds the state; the only thing in the app that changes. */
import { INITIAL, reduce, type Action, type State } from './state.ts'

export interface Store {
  readonly state: State
  dispatch(action: Action): void
}

/** `changed` is called once after any number of actions in one turn of the event loop. */
export function createStore(changed: (state: State) => void, initial: State = INITIAL): Store {
  let state = initial
  let scheduled = false
  return {
    get state() {
      return state
    },
    dispatch(action) {
      const next = reduce(state, action)
      if (next === state) return
      state = next
      if (scheduled) return
      scheduled = true
      queueMicrotask(() => {
        scheduled = false
        changed(state)
      })
    },
  }
}
