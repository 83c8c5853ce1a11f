/** The worker's line to the server. An exported page has another module of this name (`tierwave/export/page/socket.js`). */

/** @param {any} where its address @returns {WebSocket} */
export function openSocket(where) {
  const socket = new WebSocket(where);
  socket.binaryType = "arraybuffer";
  return socket;
}
