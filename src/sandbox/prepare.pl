# What a program's process does before it becomes the program: the steps of `prepare.ts`, which names their fields. A step that fails ends
# it with 125 and a sentence on its standard error. Structures are those of linux/loop.h; what differs by architecture, the numbers of
# system calls, comes with the launcher's arguments, as `name=number`.
use strict;
use Fcntl;
use POSIX ();
my ($CLONE_NEWNS, $MS_REC, $MS_SLAVE, $MS_NOSUID, $MS_NODEV) = (0x20000, 0x4000, 0x80000, 2, 4);
my ($LOOP_CONFIGURE, $LOOP_GET_STATUS64, $LOOP_CTL_GET_FREE, $LO_FLAGS_AUTOCLEAR) = (0x4C0A, 0x4C05, 0x4C82, 4);
my ($LOOP_SET_FD, $LOOP_SET_STATUS64) = (0x4C00, 0x4C04);
my ($PR_SET_NO_NEW_PRIVS, $LOOP_ATTEMPTS, $UNDONE) = (38, 64, 125);
my %numbers = map { /^(\w+)=(\d+)$/ ? ($1 => $2 + 0) : () } @ARGV;
my %steps = (limit => \&limit, apart => \&apart, disk => \&mount_disk, overlay => \&mount_overlay, identity => \&assume);

sub prepare {
  my ($step, @fields) = @_;
  $steps{$step}->(@fields);
}

# Numbers go as they are, strings by their address.
sub call {
  my ($name, $what, @arguments) = @_;
  syscall($numbers{$name}, @arguments) == 0 or undone("$what: $!");
}

sub undone {
  my ($sentence) = @_;
  syswrite(STDERR, "$sentence\n");
  POSIX::_exit($UNDONE);
}

sub limit {
  my ($resource, $value) = @_;
  my ($both, $none) = (pack('Q2', $value, $value), 0);
  call('prlimit64', "limit $resource", $none, $resource + 0, $both, $none);
}

# What is mounted from now on nobody else sees; what the host unmounts is gone here too.
sub apart {
  call('unshare', 'a mount namespace', $CLONE_NEWNS);
  mount_at('none', '/', '', $MS_REC | $MS_SLAVE, '', 'mounts of its own');
}

sub mount_at {
  my ($source, $where, $type, $flags, $options, $what) = @_;
  call('mount', $what, "$source", "$where", "$type", $flags + 0, "$options");
}

sub mount_disk {
  my ($image, $directory, $options, $id, $uid, $fresh, @writable) = @_;
  # Held until it is mounted: the device goes with its last user.
  my ($held, $path) = loop_device($image, $fresh);
  mount_at($path, $directory, 'ext4', $MS_NOSUID | $MS_NODEV, $options, 'mount of the disk');
  chdir $directory or undone("the disk: $!");
  if ($fresh ne '') {
    chown($uid, $uid, @writable) == @writable && rename($fresh, $id) or undone("the fresh disk: $!");
  }
  lstat $id && -d _ or undone("another's disk");
  chdir '/' or undone("/: $!");
}

# The one that the file has, if any: two would each keep blocks of their own, and ruin the file. It goes with its last user.
sub loop_device {
  my ($image, $fresh) = @_;
  sysopen(my $file, $image, O_RDWR) or undone("the disk: $!");
  my ($device, $inode) = (stat $file)[0, 1];
  for my $path ($fresh eq '' ? attached($image) : ()) {
    sysopen(my $loop, $path, O_RDWR) or next;
    my $status = "\0" x 232;
    next unless ioctl($loop, $LOOP_GET_STATUS64, $status);
    my ($of_device, $of_inode) = unpack 'Q2', $status;
    return ($loop, $path) if $of_device == $device && $of_inode == $inode;
  }
  sysopen(my $control, '/dev/loop-control', O_RDWR) or undone("/dev/loop-control: $!");
  for (1 .. $LOOP_ATTEMPTS) {
    my $free = ioctl($control, $LOOP_CTL_GET_FREE, 0) or undone("no loop device: $!");
    my $path = '/dev/loop' . ($free + 0);
    sysopen(my $loop, $path, O_RDWR) or undone("$path: $!");
    my $status = pack 'Q5 L4 a64 a64 a32 Q2', (0) x 8, $LO_FLAGS_AUTOCLEAR, $image, '', '', 0, 0;
    return ($loop, $path) if configured($loop, fileno $file, $status);
    undone("$path: $!") unless $!{EBUSY};
  }
  undone('no loop device: all were taken meanwhile');
}

# In one step where the kernel can (5.8).
sub configured {
  my ($loop, $file, $status) = @_;
  my $config = pack 'L2 a232 Q8', $file, 0, $status, (0) x 8;
  return 1 if ioctl($loop, $LOOP_CONFIGURE, $config);
  return 0 unless $!{EINVAL} || $!{ENOTTY};
  return ioctl($loop, $LOOP_SET_FD, $file) && ioctl($loop, $LOOP_SET_STATUS64, $status);
}

# Those whose file may be this one, by the end of its path: the rest may be another's view of it.
sub attached {
  my ($image) = @_;
  my ($end) = $image =~ m{(/[^/]+/[^/]+)$};
  my @paths;
  for my $shown (glob '/sys/block/loop*/loop/backing_file') {
    open(my $handle, '<', $shown) or next;
    my $file = readline($handle) // '';
    push @paths, $shown =~ m{^/sys/block/(loop\d+)/} ? "/dev/$1" : () if $file =~ /\Q$end\E( \(deleted\))?\n?$/;
  }
  return @paths;
}

# What is above hides what is below, also by saying that it is deleted.
sub mount_overlay {
  my ($directory, $options, $merged, $upper, $count, @ways) = @_;
  chdir $directory or undone("the root file system: $!");
  my @directories = splice @ways, 0, $count;
  for (map { "$upper/$_" } @directories) {
    unlink $_ or undone("$_: $!") if lstat $_ and !-d _;
  }
  for (map { "$upper/$_" } @ways) {
    next if !lstat $_ || -f _;
    system('rm', '-rf', '--', $_) == 0 or undone("$_ is in the way");
  }
  mount_at('overlay', $merged, 'overlay', 0, $options, 'mount of the root file system');
  chdir '/' or undone("/: $!");
}

# One user, no groups, and no way to more.
sub assume {
  my ($uid) = @_;
  my ($none, $yes) = (0, 1);
  call('setgroups', 'the groups', $none, $none);
  POSIX::setgid($uid) && POSIX::setuid($uid) or undone("the user: $!");
  call('prctl', 'no new privileges', $PR_SET_NO_NEW_PRIVS, $yes, $none, $none, $none);
}
