# The launcher's own program (launcher.ts), in Perl, which every Debian has. A request is a line of fields in hex. `start` is answered by
# `started PID` and `ended STATUS`, or by `refused` with what went wrong; `pipes` by `made`, with what went wrong; `kill` by nothing. The
# numbers are those of pidfd_open and clone3, the same on every architecture, and of F_DUPFD_CLOEXEC: a program's descriptors are gathered
# above those that it asks for, and put in their places at last. Its arguments are the name of the door, and those of `prepare.pl`, which
# stands before it.
use strict;
use Fcntl;
use POSIX ();
use Socket;
my ($pidfd_open, $clone3, $dupfd_cloexec, $above) = (434, 435, 1030, 64);
my ($CLONE_INTO_CGROUP, $SIGCHLD) = (0x200000000, 17);
my $door = pack_sockaddr_un("\0$ARGV[0]");
my (%pids, %lives);
my $asked = '';
POSIX::close($_) for grep { $_ > 2 } map { /(\d+)$/ } glob '/proc/self/fd/*';
for (;;) {
  my $ready = '';
  vec($ready, $_, 1) = 1 for 0, keys %lives;
  next if select($ready, undef, undef, undef) < 1;
  reap($_) for grep { vec($ready, $_, 1) } keys %lives;
  next unless vec($ready, 0, 1);
  sysread(STDIN, $asked, 65536, length $asked) or last;
  obey(map { pack 'H*', substr $_, 1 } split / /, $1) while $asked =~ s/^(.*)\n//;
}
kill KILL => values %pids;

sub obey {
  my ($verb, $id, @rest) = @_;
  if ($verb eq 'start') { launch($id, @rest) }
  elsif ($verb eq 'pipes') { report('made', $id, pipes(@rest)) }
  elsif ($pids{$id}) { kill KILL => $pids{$id} }
}

sub report { syswrite(STDOUT, join(' ', @_) . "\n") }

sub launch {
  my ($id, $cwd, @rest) = @_;
  my @given = splice @rest, 0, shift @rest;
  my @groups = splice @rest, 0, shift @rest;
  my $pid = born_in(@groups);
  @groups = () if defined $pid;
  $pid //= fork;
  return report('refused', $id, "no process: $!") unless defined $pid;
  become($id, $cwd, \@given, \@groups, @rest) unless $pid;
  my $life = syscall($pidfd_open, $pid, 0);
  return unwatched($id, $pid) if $life < 0;
  $lives{$life} = $id;
  $pids{$id} = $pid;
}

# Nobody would learn of its end.
sub unwatched {
  my ($id, $pid) = @_;
  my $why = $!{ENOSYS} ? 'Linux 5.3 or later is needed' : "$!";
  kill KILL => $pid;
  waitpid $pid, 0;
  report('refused', $id, "pidfd_open: $why");
}

sub reap {
  my ($life) = @_;
  my $id = delete $lives{$life};
  waitpid(delete $pids{$id}, 0);
  POSIX::close($life);
  report('ended', $id, $?);
}

# A process in its group of version 2 from its first moment, where the kernel can (5.7): to move there takes 10 ms. As `fork`.
sub born_in {
  my ($group) = map { m{^(.*)/cgroup\.procs$} } @_;
  return undef unless defined $group && sysopen(my $handle, $group, O_RDONLY | O_DIRECTORY);
  my $arguments = pack 'Q11', $CLONE_INTO_CGROUP, (0) x 3, $SIGCHLD, (0) x 5, fileno $handle;
  my $pid = syscall($clone3, $arguments, length $arguments);
  return $pid < 0 ? undef : $pid;
}

sub become {
  my ($id, $cwd, $given, $groups, @rest) = @_;
  my @held = map { handed($id, $_, $given->[$_]) } 0 .. $#$given;
  report('started', $id, $$);
  POSIX::dup2($held[$_], $_) for 0 .. $#held;
  join_group($_) for @$groups;
  prepare(splice @rest, 0, shift @rest) for 1 .. shift @rest;
  chdir $cwd or failed("cannot enter $cwd");
  exec { $rest[0] } @rest or failed("cannot start $rest[0]");
}

sub handed {
  my ($id, $descriptor, $what) = @_;
  my $handle;
  my $opened = $what eq '|'
    ? socket($handle, PF_UNIX, SOCK_STREAM, 0) && connect($handle, $door) && syswrite($handle, sprintf '%s%02d', $id, $descriptor)
    : sysopen($handle, $what eq '-' ? '/dev/null' : $what, $what eq '-' ? O_RDWR : O_RDONLY);
  return fcntl($handle, $dupfd_cloexec, $above) if $opened;
  report('refused', $id, "$what: $!");
  POSIX::_exit(126);
}

# As 0, itself: one thread that moves itself, by `tasks` of version 1, waits for nobody.
sub join_group {
  my ($path) = @_;
  my $group;
  sysopen($group, $path, O_WRONLY) && syswrite($group, '0') or failed("cannot join $path");
}

sub failed {
  my ($what) = @_;
  syswrite(STDERR, "$what: $!\n");
  POSIX::_exit(127);
}

sub pipes {
  for (@_) { POSIX::mkfifo($_, 0660) && chmod(0660, $_) or return "$_: $!" }
  return '';
}
