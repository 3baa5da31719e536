{
  description = "A pool of ready qcow2 overlays for instant VM boot";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      project = eachSystem (pkgs: import ./fixtures/nix { inherit pkgs; });
      of = pkgs: project.${pkgs.stdenv.hostPlatform.system};
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

      apps = eachSystem (pkgs: {
        default = {
          type = "app";
          program = lib.getExe (of pkgs).packages.overlay-pool;
          meta.description = "Keeps finished qcow2 overlays ready and hands them over";
        };
        conformance = {
          type = "app";
          program = lib.getExe (of pkgs).packages.conformance;
          meta.description = "Judges a pool of qcow2 overlays by the contract of such pools";
        };
      });

      devShells = eachSystem (pkgs: {
        default = (of pkgs).shell;
      });

      # None of these needs KVM: what does is in `packages`, as check-vms and check-module.
      checks = eachSystem (pkgs: (of pkgs).checks);

      overlays.default = final: _prev: {
        inherit ((import ./fixtures/nix { pkgs = final; }).packages) overlay-pool;
      };

      nixosModules.default = import ./fixtures/nix/module.nix { inherit (self) packages; };

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
