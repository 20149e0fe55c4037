/** Names of computers: scientists' surnames (contract §3), unique in an org by a number where one is taken. */

const SCIENTISTS = (
  'abel agnesi alhazen ampere anning archimedes aristarchus avicenna avogadro babbage banting bardeen becquerel bell bernoulli ' +
  'blackwell bohr boltzmann boole born bose boyle brahe brahmagupta brattain buck burnell cannon cantor carson carver cauchy ' +
  'cavendish celsius chandrasekhar chatelet cohn copernicus coulomb cray crick curie dalton darwin davinci dijkstra dirac doppler ' +
  'edison ehrlich einstein engelbart eratosthenes euclid euler faraday fermat fermi feynman fibonacci fleming fourier franklin ' +
  'fresnel galileo galois galvani gauss germain gibbs goddard goedel goldberg goodall haber hahn hamilton hawking heisenberg ' +
  'helmholtz herschel hertz hilbert hippocrates hodgkin hooke hopper hubble humboldt hutton huygens hypatia jackson jenner johnson ' +
  'joliot joule kelvin kepler keynes khorana kovalevskaya lagrange lamarr lamport landau laplace lavoisier leakey leavitt leibniz ' +
  'lewin linnaeus lister lovelace lorentz lyell mach maxwell mayer mcclintock mead meitner mendel mendeleev michelson mirzakhani ' +
  'mitchell moore morse napier nash newton nightingale nobel noether ohm oppenheimer pare pascal pasteur pauli pauling payne penrose ' +
  'perlman planck poincare poitras priestley ptolemy pythagoras raman ramanujan rhodes riemann ritchie roentgen rubin rutherford ' +
  'sagan salk sanger schrodinger shannon shaw shirley shockley snyder spence stonebraker sutherland swartz swirles tesla thales ' +
  'thompson torvalds tu turing varahamihira villani vaughan volta wallace watson watt wegener wescoff wien wilbur wiles williams ' +
  'wilson wing wozniak wright wu yalow yonath zuse'
).split(' ');

/** Words of the API's own paths. */
const RESERVED = new Set(['templates', 'bulk-delete']);

/** @param chance in 0..1. @param attempt 0 = the bare name; a number follows from then on. */
export function nameOf(chance: number, attempt: number): string {
  const name = SCIENTISTS[Math.floor(chance * SCIENTISTS.length)] ?? 'curie';
  if (attempt === 0) return name;
  return `${name}-${Math.floor(((chance * SCIENTISTS.length) % 1) * 10 ** (attempt + 1)) + 2}`;
}

/** Whether a computer can be asked for by this. */
export function isName(text: string): boolean {
  return /^[a-z][a-z0-9-]{0,62}$/.test(text) && !RESERVED.has(text);
}
