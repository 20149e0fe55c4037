/**
 * The small program inside a computer that copies bytes between its loopback and the server: out through the socket of
 * the egress proxy, in from a connection that the server asked for. In Perl, which every Debian has.
 * Invariant: it holds one chunk per direction at most, so a slow reader holds the writer back.
 */

import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const NAME = 'relay.pl';

/** Where clients inside find the way out. */
export const EGRESS_PORT = 3128;
export const PERL = '/usr/bin/perl';
/** What the relay exits with when nothing listens. */
export const REFUSED_CODE = 111;

/** What it says on its standard error once it is connected. */
export const CONNECTED = 'connected\n';

/** Puts the relay into the directory of an awakening. */
export async function writeRelay(directory: string): Promise<void> {
  const path = join(directory, NAME);
  await writeFile(path, PROGRAM, { flag: 'wx', mode: 0o600 });
  await chmod(path, 0o640);
}

/** The command that connects its standard input and output to a port; `directory` as the inside sees it. */
export function connectCommand(directory: string, port: number): string {
  return `${PERL} '${directory}/${NAME}' connect ${port}`;
}

/** The command that ends once the relay listens, and leaves it behind. */
export function listenCommand(directory: string, socket_path: string): string {
  return `${PERL} '${directory}/${NAME}' listen ${EGRESS_PORT} '${socket_path}'`;
}

/** Connections beyond the bound wait in the listener's backlog. */
const PROGRAM = String.raw`use strict;
use Fcntl;
use Socket;
$SIG{PIPE} = 'IGNORE';
my ($connections_max, $chunk_bytes, $half_open_s) = (256, 65536, 60);
my ($mode, $port, $path) = @ARGV;
my ($listener, @ways, $once);
$mode eq 'listen' ? start_listening() : start_connected();
copy() while @ways || $listener;

sub start_listening {
  socket($listener, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
  setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1);
  bind($listener, pack_sockaddr_in($port, INADDR_LOOPBACK)) or die "bind: $!";
  listen($listener, 128) or die "listen: $!";
  exit 0 if fork;
}

sub start_connected {
  my $peer = connected(PF_INET, pack_sockaddr_in($port, INADDR_LOOPBACK))
    || connected(PF_INET6, pack_sockaddr_in6($port, inet_pton(AF_INET6, '::1'))) or exit 111;
  syswrite(STDERR, "connected\n");
  $once = 1;
  join_up(\*STDIN, $peer, $peer, \*STDOUT);
}

sub connected {
  my ($family, $address) = @_;
  socket(my $peer, $family, SOCK_STREAM, 0) or return;
  return connect($peer, $address) ? $peer : undef;
}

sub join_up {
  my ($from, $to, $back_from, $back_to) = @_;
  fcntl($_, F_SETFL, fcntl($_, F_GETFL, 0) | O_NONBLOCK) for @_;
  my $pair = {};
  push @ways, { from => $from, to => $to, held => '', pair => $pair },
    { from => $back_from, to => $back_to, held => '', pair => $pair, last => $once };
}

sub copy {
  my ($readable, $writable) = ('', '');
  vec($readable, fileno($listener), 1) = 1 if $listener && @ways < 2 * $connections_max;
  for (@ways) {
    if (length $_->{held}) { vec($writable, fileno($_->{to}), 1) = 1 }
    else { vec($readable, fileno($_->{from}), 1) = 1 }
  }
  my $ready = select($readable, $writable, undef, $once && @ways == 1 ? $half_open_s : undef);
  exit 0 if $ready == 0;
  return if $ready < 0;
  for (@ways) {
    if (vec($writable, fileno($_->{to}), 1) && length $_->{held}) { put($_) }
    elsif (vec($readable, fileno($_->{from}), 1)) { take($_) && put($_) }
  }
  @ways = grep { !$_->{ended} && !$_->{pair}{broken} } @ways;
  accept_one() if $listener && vec($readable, fileno($listener), 1);
}

sub take {
  my ($way) = @_;
  my $count = sysread($way->{from}, $way->{held}, $chunk_bytes);
  return 1 if $count;
  return 0 if !defined $count && $!{EAGAIN};
  $way->{pair}{broken} = 1 if !defined $count;
  $way->{ended} = 1;
  exit 0 if $way->{last};
  shutdown($way->{to}, 1);
  return 0;
}

sub put {
  my ($way) = @_;
  my $count = syswrite($way->{to}, $way->{held});
  if (defined $count) { substr($way->{held}, 0, $count) = '' }
  elsif (!$!{EAGAIN}) { $way->{pair}{broken} = 1 }
}

sub accept_one {
  accept(my $client, $listener) or return;
  my $server = connected(PF_UNIX, pack_sockaddr_un($path)) or return;
  join_up($client, $server, $server, $client);
}
`;
