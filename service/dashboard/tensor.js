/** Numbers of any shape, as the API sends them: little-endian, row-major, in base64. */

/** @typedef {{dtype: string, shape: number[], data: string}} Encoded */

export class Tensor {
  /**
   * @param {number[]} shape
   * @param {Float32Array} values
   */
  constructor(shape, values) {
    this.shape = shape;
    this.values = values;
  }

  /**
   * @param {Encoded} encoded
   * @returns {Tensor}
   */
  static decode(encoded) {
    const bytes = Uint8Array.from(atob(encoded.data), (character) => character.charCodeAt(0));
    return new Tensor(encoded.shape, new Float32Array(encoded.dtype === "int64" ? smallIntegers(bytes) : bytes.buffer));
  }

  /**
   * @param {any} lists nested lists of numbers; null is NaN
   * @returns {Tensor}
   */
  static of(lists) {
    const shape = [];
    for (let part = lists; Array.isArray(part); part = part[0]) shape.push(part.length);
    return new Tensor(
      shape,
      Float32Array.from(lists.flat(Infinity), (value) => value ?? Number.NaN),
    );
  }

  /**
   * What stands at the first indices: a tensor of the dimensions that are left, on the same memory.
   * @param {...number} indices
   * @returns {Tensor}
   */
  at(...indices) {
    const shape = this.shape.slice(indices.length);
    const size = shape.reduce((product, side) => product * side, 1);
    const place = indices.reduce((sum, index, axis) => sum * this.shape[axis] + index, 0);
    return new Tensor(shape, this.values.subarray(place * size, (place + 1) * size));
  }

  /**
   * One number.
   * @param {...number} indices one for each dimension
   * @returns {number}
   */
  item(...indices) {
    return this.at(...indices).values[0];
  }

  /** @returns {number[][]} a matrix as lists */
  rows() {
    const [rows, columns] = this.shape;
    return Array.from({ length: rows }, (_, row) => [...this.values.subarray(row * columns, (row + 1) * columns)]);
  }
}

/**
 * @param {Uint8Array} bytes of int64, all of them indices
 * @returns {number[]}
 */
function smallIntegers(bytes) {
  return Array.from(new BigInt64Array(bytes.buffer), Number);
}
