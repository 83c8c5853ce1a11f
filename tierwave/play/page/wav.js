/** Sound as a wav file: mono, 32-bit float, so that a saved take holds the very samples that the network made. */

/** @param {Float32Array} samples @param {number} rate in Hz @returns {ArrayBuffer} */
export function wavOf(samples, rate) {
  const bytes = 4 * samples.length;
  const file = new DataView(new ArrayBuffer(58 + bytes));
  const text = (at, word) => [...word].forEach((letter, index) => file.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  file.setUint32(4, 50 + bytes, true);
  text(8, "WAVEfmt ");
  file.setUint32(16, 18, true);
  file.setUint16(20, 3, true); // IEEE float
  file.setUint16(22, 1, true); // channels
  file.setUint32(24, rate, true);
  file.setUint32(28, 4 * rate, true); // bytes per second
  file.setUint16(32, 4, true); // bytes per frame
  file.setUint16(34, 32, true); // bits per sample
  file.setUint16(36, 0, true); // no extension
  text(38, "fact"); // asked for where the samples are not PCM
  file.setUint32(42, 4, true);
  file.setUint32(46, samples.length, true);
  text(50, "data");
  file.setUint32(54, bytes, true);
  samples.forEach((sample, index) => file.setFloat32(58 + 4 * index, sample, true));
  return file.buffer;
}
