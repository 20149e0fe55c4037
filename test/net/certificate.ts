/** Certificates made on the spot, in DER by hand: the tests ask for no program. Invariant: each is valid today and for a day around it. */
import { generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { isIPv4, isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';

export type Certificate = { key: string; cert: string };

/** A certificate that signs itself and is its own authority, for DNS names and addresses. */
export function selfSigned(...names: string[]): Certificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const body = sequence(
    explicit(0, integer(2)),
    integer(Date.now() % 0x7fffffff),
    ECDSA_SHA256,
    commonName('Overwinter tests'),
    sequence(time(-1), time(1)),
    commonName('Overwinter tests'),
    publicKey.export({ type: 'spki', format: 'der' }),
    explicit(3, sequence(subjectAltName(names), basicConstraints())),
  );
  const cert = sequence(body, ECDSA_SHA256, bitString(signature(body, privateKey)));
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, cert: pem(cert) };
}

function signature(body: Buffer, key: KeyObject): Buffer {
  return sign('sha256', body, key);
}

function subjectAltName(names: string[]): Buffer {
  const entries = names.map((name) =>
    isIPv4(name) || isIPv6(name)
      ? element(0x87, Buffer.from(ipaddr.parse(name).toByteArray()))
      : element(0x82, Buffer.from(name)),
  );
  return sequence(oid('551d11'), element(0x04, sequence(...entries)));
}

function basicConstraints(): Buffer {
  const yes = element(0x01, Buffer.from([0xff]));
  return sequence(oid('551d13'), yes, element(0x04, sequence(yes)));
}

function commonName(name: string): Buffer {
  return sequence(element(0x31, sequence(oid('550403'), element(0x0c, Buffer.from(name)))));
}

/** GeneralizedTime, so many days from now. */
function time(days: number): Buffer {
  const iso = new Date(Date.now() + days * 86_400_000).toISOString();
  return element(0x18, Buffer.from(`${iso.slice(0, 19).replace(/[-:T]/g, '')}Z`));
}

function pem(der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
}

function integer(value: number): Buffer {
  const hex = value.toString(16);
  const even = hex.length % 2 === 0 ? hex : `0${hex}`;
  return element(0x02, Buffer.from(/^[89a-f]/.test(even) ? `00${even}` : even, 'hex'));
}

function bitString(bytes: Buffer): Buffer {
  return element(0x03, Buffer.concat([Buffer.from([0]), bytes]));
}

function explicit(tag: number, inner: Buffer): Buffer {
  return element(0xa0 + tag, inner);
}

function oid(hex: string): Buffer {
  return element(0x06, Buffer.from(hex, 'hex'));
}

function sequence(...elements: Buffer[]): Buffer {
  return element(0x30, Buffer.concat(elements));
}

function element(tag: number, content: Buffer): Buffer {
  const { length } = content;
  if (length < 128) return Buffer.concat([Buffer.from([tag, length]), content]);
  const bytes = length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...bytes]), content]);
}

/** `ecdsa-with-SHA256` */
const ECDSA_SHA256 = sequence(oid('2a8648ce3d040302'));
