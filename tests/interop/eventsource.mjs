// Reads a stream with npm's `eventsource`, the EventSource for Node.
import { EventSource } from 'eventsource'
import { authorization, eventNames, lastEventId, say, url } from './reading.mjs'

// An EventSource has no way to begin with an id or to send headers: its `fetch` can be replaced for both.
const begin = lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId }
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...begin, ...authorization, ...init.headers } }),
})

const states = ['connecting', 'open', 'closed']
source.addEventListener('open', () => say({ state: states[source.readyState] }))
source.addEventListener('error', (error) => {
  say({ state: states[source.readyState], status: error.code ?? null, message: error.message ?? null })
})
for (const name of eventNames) {
  source.addEventListener(name, ({ type, lastEventId, data }) => say({ type, id: lastEventId, data }))
}
