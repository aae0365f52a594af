// Search in a site that is opened from the disk. Browsers start no worker from a file, so a hidden frame does its work:
// it loads the same script, and messages go to and fro as they would to a worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data: structuredClone(data) })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.inside.importScripts = () => {} // stemmers of other languages than English
      this.loaded = new Promise((done) => {
        const script = this.inside.document.createElement("script")
        script.src = url
        script.onload = done
        this.inside.document.body.appendChild(script)
      })
    }
    postMessage(data) {
      this.loaded.then(() => {
        this.inside.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }))
      })
    }
    terminate() {
      this.inside.frameElement.remove()
    }
  }
}
