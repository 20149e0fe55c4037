/** Archives as nobody honest makes them: written byte by byte, as no packer would write them. */
import { crc32, deflateRawSync } from 'node:zlib';

export type Made = {
  name: string;
  /** Of tar: `0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5` directory, `6` pipe. */
  type?: '0' | '1' | '2' | '3' | '4' | '5' | '6' | '7';
  target?: string;
  body?: string;
  mode?: number;
};

const BLOCK = 512;

export function tarOf(entries: Made[]): Buffer {
  return Buffer.concat([...entries.flatMap(tarEntry), Buffer.alloc(BLOCK * 2)]);
}

function tarEntry({ name, type = '0', target = '', body = '', mode = 0o644 }: Made): Buffer[] {
  const content = Buffer.from(body);
  const long = Buffer.byteLength(name) > 100 || Buffer.byteLength(target) > 100;
  const padding = Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK);
  const own = [header(name, type, target, content.length, mode), content, padding];
  return long ? [...pax({ path: name, ...(target !== '' && { linkpath: target }) }), ...own] : own;
}

function pax(fields: Record<string, string>): Buffer[] {
  const records = Object.entries(fields).map(([key, value]) => {
    const rest = ` ${key}=${value}\n`;
    let length = Buffer.byteLength(rest);
    while (String(length).length + Buffer.byteLength(rest) !== length)
      length = String(length).length + Buffer.byteLength(rest);
    return `${length}${rest}`;
  });
  const body = Buffer.from(records.join(''));
  const padding = Buffer.alloc((BLOCK - (body.length % BLOCK)) % BLOCK);
  return [header('pax', 'x', '', body.length, 0o644), body, padding];
}

/** @param size as the header says it, be it so or not. */
export function header(name: string, type: string, target: string, size: number, mode = 0o644): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0, 100, 'utf8');
  block.write(`${mode.toString(8).padStart(7, '0')}\0`, 100);
  block.write('0000000\0'.repeat(2), 108);
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  block.write('00000000000\0        ', 136);
  block.write(type, 156);
  block.write(target, 157, 100, 'utf8');
  block.write('ustar\x0000', 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

export type Zipped = { name: string; body?: string; mode?: number; says_bytes?: number; says_sum?: number };

/** @param says_bytes the size that the directory tells of, be it so or not. */
export function zipOf(entries: Zipped[]): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, body = '', mode = 0o100644, says_bytes, says_sum } of entries) {
    const content = Buffer.from(body);
    const packed = deflateRawSync(content);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(0x800, 2);
    common.writeUInt16LE(8, 4);
    common.writeUInt32LE(says_sum ?? crc32(content), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(says_bytes ?? content.length, 18);
    common.writeUInt16LE(Buffer.byteLength(name), 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, Buffer.from(name), packed]);
    const rest = Buffer.alloc(14);
    rest.writeUInt32LE((mode << 16) >>> 0, 6);
    rest.writeUInt32LE(offset, 10);
    const made_by = Buffer.from([20, 3]);
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02'), made_by, common, rest, Buffer.from(name)]));
    locals.push(local);
    offset += local.length;
  }
  const size = directory.reduce((total, { length }) => total + length, 0);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06');
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(size, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, ...directory, end]);
}
