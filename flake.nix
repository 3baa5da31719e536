{
  description = "A pool of ready qcow2 overlays for instant VM boot";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      # What is tested, and nothing else.
      systems = [ "x86_64-linux" ];
      eachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      commit = self.rev or self.dirtyRev or "unknown";
      project = eachSystem (pkgs: import ./fixtures/nix { inherit commit pkgs; });
      of = pkgs: project.${pkgs.stdenv.hostPlatform.system};

      app = description: package: {
        type = "app";
        program = lib.getExe package;
        meta = { inherit description; };
      };
    in
    {
      packages = eachSystem (
        pkgs:
        (of pkgs).packages
        // (of pkgs).kvmChecks
        // {
          default = (of pkgs).packages.overlay-pool;
          check-module = pkgs.testers.runNixOSTest (
            import ./fixtures/nix/module-test.nix { module = self.nixosModules.default; }
          );
        }
      );

      apps = eachSystem (
        pkgs:
        let
          inherit (of pkgs) apps packages;
        in
        {
          default = app "Keeps finished qcow2 overlays ready and hands them over" packages.overlay-pool;
          conformance = app "Judges a pool of qcow2 overlays by the contract of such pools" packages.conformance;
          bench = app "Measures the pool on this machine" apps.bench;
          exec = app "Runs code in a VM of its own" apps.exec;
        }
      );

      devShells = eachSystem (pkgs: (of pkgs).shells);

      # None of these needs KVM: what does is in `packages`, as check-vms and check-module.
      checks = eachSystem (pkgs: (of pkgs).checks);

      # The project's QEMU under a name of its own: nixpkgs' stays what it is.
      overlays.default =
        final: _prev:
        let
          inherit
            (import ./fixtures/nix {
              inherit commit;
              pkgs = final;
            })
            packages
            ;
        in
        {
          inherit (packages) overlay-pool;
          overlay-pool-base-javascript = packages.base-javascript;
          overlay-pool-base-python = packages.base-python;
          overlay-pool-conformance = packages.conformance;
          overlay-pool-container = packages.container;
          overlay-pool-guest-images = packages.guest-images;
          overlay-pool-guest-kernel = packages.guest-kernel;
          overlay-pool-qemu = packages.qemu;
        };

      nixosModules.default = import ./fixtures/nix/module.nix { inherit (self) packages; };

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
