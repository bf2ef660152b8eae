// Reads a stream with @microsoft/fetch-event-source, as its README shows.
import { EventStreamContentType, fetchEventSource } from '@microsoft/fetch-event-source'
import { authorization, lastEventId, say, url } from './reading.mjs'

// The library is for browsers, of which it needs only this much.
globalThis.window = globalThis
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} }

class Refused extends Error {}

const begin = lastEventId === undefined ? {} : { 'last-event-id': lastEventId }
try {
  await fetchEventSource(url, {
    headers: { ...authorization, ...begin },
    openWhenHidden: true,
    async onopen(response) {
      const isStream = response.headers.get('content-type')?.startsWith(EventStreamContentType)
      if (response.ok && isStream) {
        say({ state: 'open' })
      } else if (response.status >= 400 && response.status < 500 && response.status !== 429) {
        throw new Refused(String(response.status))
      } else {
        throw new Error(`not a stream: ${response.status}`)
      }
    },
    onmessage({ event, id, data }) {
      say({ type: event, id, data })
    },
    onclose() {
      say({ state: 'closed', status: null, message: 'the response ended' })
    },
    onerror(error) {
      if (error instanceof Refused) throw error
      say({ state: 'connecting', status: null, message: error.message })
    },
  })
} catch (error) {
  if (!(error instanceof Refused)) throw error
  say({ state: 'closed', status: Number(error.message), message: null })
}
